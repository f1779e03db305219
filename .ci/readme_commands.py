"""Print the commands of a Markdown file's `sh` blocks, then its `python` blocks as commands, for CI
to run.

    python .ci/readme_commands.py [--small] FILE

With --small, training, comparing and the lessons use the preset `tiny`, which runs the same code in
seconds. Omitted are installing (CI has just installed this checkout), pytest (CI runs it in an
environment of its own), and commands for a GPU."""

import re
import sys
from pathlib import Path

OMITTED = ("pip install", "pytest", "git clone", "cd ")
TRAINS = re.compile(r"(minimtp (compare|train)|python -m lessons\.\w+)\b")


def commands(text: str) -> list[str]:
    """Return the commands of all ```sh blocks: without comments, continued lines joined, `a && b`
    split.
    """
    lines = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line).strip()
            lines += [part.strip() for part in line.split("&&") if part.strip()]
    return lines


def programs(text: str) -> list[str]:
    """Return each ```python block as a command that runs it.

    A block that quotes the library is not a program: a ```py block, or one below a mark of
    excerpts.py. The lessons' tests compare it.
    """
    text = re.sub(r"^<!-- code: .*? -->\n```python\n.*?^```", "", text, flags=re.M | re.S)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [f"python - <<'END'\n{block}END" for block in blocks]


def small(command: str) -> str | None:
    """Return the command as CI runs it, None to omit it."""
    if command.startswith(OMITTED) or "--device cuda" in command:
        return None
    if command.startswith("minimtp compare --from smollm2"):
        command = command.replace("--from smollm2", "--from runs/mine")
        return f"{command} --preset tiny --out runs/smollm2"
    command = re.sub(r"runs/lessons/\w+/", "runs/lessons/tiny/", command)
    command = command.replace("/lesson11/smollm2/", "/lesson11/tiny/")
    if command.startswith("minimtp chat runs/smollm2"):
        return "minimtp chat smollm2"  # the small model has no chat template
    command = re.sub(r"--tokens \d+", "--tokens 20000", command)
    if TRAINS.match(command) and not re.search(r"--(from|resume)\b", command):
        command = re.sub(r" --preset \S+", "", command) + " --preset tiny"
    if command.startswith("minimtp bench quality"):
        command += " --preset tiny --bits 4,2 --seeds 1"
    if command == "minimtp bench --all":
        command += " --preset tiny"
    if command.startswith(("minimtp bench kernels", "minimtp bench train")):
        command += " --rounds 1"
    return command


if __name__ == "__main__":
    markdown = Path(sys.argv[-1]).read_text(encoding="utf-8")
    for command in commands(markdown):
        command = small(command) if "--small" in sys.argv else command
        if command:
            print(command)
    print("\n".join(programs(markdown)))
