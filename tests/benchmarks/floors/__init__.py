"""What a row is compared with: small, obvious programs that do the least that the work can be done with."""
