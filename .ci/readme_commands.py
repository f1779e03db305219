"""Print the commands of a Markdown file's `sh` blocks, then its `python` blocks as commands, to be run by CI.

With --small, training, comparing and the lessons take the preset `tiny`, which runs the same code in seconds; installing is
left out (CI has just done it, from this checkout), and so are pytest (CI runs it in an environment of its own) and the commands
for a GPU.
"""

import re
import sys
from pathlib import Path


def commands(text: str) -> list[str]:
    """The command lines of all ```sh blocks, comments stripped, continued lines joined, `a && b` taken apart."""
    lines = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line).strip()
            lines += [part.strip() for part in line.split("&&") if part.strip()]
    return lines


def programs(text: str) -> list[str]:
    """The ```python blocks, each as a command that runs it."""
    return [
        f"python - <<'END'\n{block}END"
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


def small(command: str) -> str | None:
    """The command as CI runs it, None to leave it out."""
    if (
        command.startswith(("pip install", "pytest", "git clone", "cd "))
        or "--device cuda" in command
    ):
        return None
    learns = re.match(r"(minimtp (compare|train)|python -m lessons\.\w+)\b", command)
    if learns and not re.search(r"--(from|resume)\b", command):
        command = re.sub(r" --preset \S+", "", command) + " --preset tiny"
    if command.startswith("minimtp bench quality"):
        command += " --preset tiny --bits 4,2 --seeds 1"
    if command == "minimtp bench --all":
        command += " --preset tiny"
    return command


if __name__ == "__main__":
    markdown = Path(sys.argv[-1]).read_text(encoding="utf-8")
    for command in commands(markdown):
        command = small(command) if "--small" in sys.argv else command
        if command:
            print(command)
    print("\n".join(programs(markdown)))
