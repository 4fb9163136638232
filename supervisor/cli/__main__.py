"""``python -m supervisor.cli``: the command, where the script is not on the PATH."""

import sys

from supervisor.cli import main

sys.exit(main())
