"""How a document is read for its snippets: nothing in it is passed over."""

from __future__ import annotations

import pytest

from tests.documents.snippets import Command, Snippet, commands, same_shape, snippets

DOCUMENT = """\
<!-- session: guide -->
<!-- file: a/compose.yaml -->

```yaml
services: {}
```

1. Then:

   ```console
   $ docker ps
   ```

<!-- not run: pip -->
```sh
pip install .
```
"""


def test_every_block_is_found_with_what_is_said_about_it() -> None:
    assert snippets(DOCUMENT) == [
        Snippet("yaml", "services: {}\n", "guide", "file", "a/compose.yaml", 4),
        Snippet("console", "$ docker ps\n", "guide", "", "", 10),
        Snippet("sh", "pip install .\n", "guide", "not run", "pip", 15),
    ]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param("```\nls\n```\n", "line 1: what is to be done", id="a block without a language"),
        pytest.param("```ruby\nputs\n```\n", "a block of ruby", id="a language that nobody runs"),
        pytest.param("```sh\nls\n", "line 1: this block has no end", id="a block without an end"),
        pytest.param("<!-- not run: x -->\nwords\n", "line 2: the comment before it", id="a comment about no block"),
    ],
)
def test_a_block_that_nobody_knows_what_to_do_with_is_an_error(document: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        snippets(document)


def test_a_terminal_is_commands_and_what_they_show() -> None:
    assert commands("$ a \\\n  b\nshown\n$ c\n") == [Command("a \\\n  b", ["shown"]), Command("c", [])]


@pytest.mark.parametrize(
    ("promised", "shown", "same"),
    [
        pytest.param(["fence 7"], ["fence 12"], True, id="another number"),
        pytest.param(["held since 14:02:11"], ["held since 09:00:00"], True, id="another time"),
        pytest.param(["a  b"], ["a     b"], True, id="another width of a column"),
        pytest.param(["lease l_Ab3dE-_Gh1jk"], ["lease l_000000000000"], True, id="another id"),
        pytest.param(['{"a": 1, ...}'], ['{"a": 1, "b": 2}'], True, id="the rest of a line"),
        pytest.param(["a", "...", "z"], ["a", "b", "c", "z"], True, id="lines between"),
        pytest.param(["a", "...", "z"], ["a", "z"], True, id="no line between"),
        pytest.param(["ready"], ["starting"], False, id="another word"),
        pytest.param(["a"], ["a", "b"], False, id="a line too many"),
        pytest.param(["a", "b"], ["a"], False, id="a line too few"),
        pytest.param([], ["error"], False, id="something where nothing was promised"),
        pytest.param(["..."], ["a", "b"], True, id="anything"),
    ],
)
def test_what_is_shown_has_the_shape_that_was_promised(promised: list[str], shown: list[str], same: bool) -> None:
    assert same_shape(promised, shown) is same
