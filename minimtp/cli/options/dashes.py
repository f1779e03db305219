"""Values of options that begin with a dash, such as --stop '---', --prompt '-x' and --out -runs.

argparse takes every word that begins with a dash for an option. `join_values` joins such a value to
its option (`--stop=---`) before argparse sees it. A word that looks like an option (--word, or an
option of this command) stays an option, so a forgotten value is noticed. As a value it needs the
"=".
"""

import argparse
import os
import re
from collections.abc import Iterable

LOOKS_LIKE_AN_OPTION = re.compile(r"--[a-zA-Z][a-zA-Z0-9-]*(=|$)")
PATHS = ("PATH", "FILE", "DIR", "RUN")  # placeholders of options whose value is a path


def join_values(parser: argparse.ArgumentParser, arguments: Iterable[str]) -> list[str]:
    """Return the arguments with each value that begins with a dash joined to its option.

    In a list of paths, the value gets "./" in front instead. So does the name of an existing file
    or folder that is not the value of any option.
    """
    joined: list[str] = []
    rest, option = iter(arguments), None  # the option that waits for its value
    for word in rest:
        names = parser._option_string_actions
        if word == "--" and (option is None or option.nargs == "+"):
            return [*joined, word, *rest]  # only positional arguments follow
        if word in names:
            action = names[word]
            option = action if action.nargs in (None, "+") else None
        elif _is_option(word, names):
            option = None
        elif option is not None and word.startswith("-") and word != "-":
            if option.nargs is None:
                joined[-1] += f"={word}"
                option = None
                continue
            word = f"./{word}" if option.metavar in PATHS else word
        elif option is None and word.startswith("-") and os.path.lexists(word):
            word = f"./{word}"
        elif option is None:
            parser = _command(parser, word) or parser
        elif option.nargs is None:
            option = None
        joined.append(word)
    return joined


def _is_option(word: str, names: dict[str, argparse.Action]) -> bool:
    return word.partition("=")[0] in names or bool(LOOKS_LIKE_AN_OPTION.match(word))


def _command(parser: argparse.ArgumentParser, word: str) -> argparse.ArgumentParser | None:
    """Return the parser of the command `word`, or None if it is no command of `parser`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices.get(word)
    return None
