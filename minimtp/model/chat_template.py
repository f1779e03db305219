"""Applies a chat template in a process of its own: python -m minimtp.model.chat_template

A template comes from a stranger. Jinja's sandbox keeps it from files and modules, but not from
endless loops or from strings that double a hundred times. So it gets a process with little memory
and little processor time, and a template that needs more ends with that process. Linux limits both,
macOS the time. Time during which the process does not run, because the computer sleeps or is busy,
does not count.

Standard input: {"template", "conversations": [messages, ...], "variables", "seconds"} as JSON.
Standard output: {"texts": [...]} or {"error": ...}.
"""

import contextlib
import json
import sys
from datetime import datetime

try:
    import resource
except ImportError:  # Windows: the parent process limits the time, and nothing the memory
    resource = None

MAX_MEMORY = 2**28  # bytes of address space
MAX_MARKS = 2**18  # characters that a template may write beyond four times the conversation


def limit_resources(seconds: int) -> None:
    """Limit the memory of this process, and its processor time from now on, where the system can.
    A process that takes longer is ended by SIGXCPU.
    """
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds += int(used.ru_utime + used.ru_stime)
    for kind, maximum in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = maximum if hard == resource.RLIM_INFINITY else min(maximum, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS does not have all of them
            resource.setrlimit(kind, (limit, hard))


def as_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, with the parameters that it has in transformers."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def apply(template: str, conversations: list, variables: dict) -> dict[str, object]:
    """Return the text of every conversation, or the reason why there is none."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(Exception):
        """The template itself refuses the conversation."""

    def refuse(message: object) -> None:
        raise Refused(message)

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the answers for training. The text is the same without it."""

        tags = frozenset({"generation"})

        def parse(self, parser: jinja2.parser.Parser) -> list:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    environment.filters["tojson"] = as_json
    try:
        compiled = environment.from_string(template)
        texts = [compiled.render(messages=messages, **variables) for messages in conversations]
        for messages, text in zip(conversations, texts, strict=True):
            if len(text) > MAX_MARKS + 4 * len(json.dumps(messages, ensure_ascii=False)):
                return {"error": f"writes {len(text):,} characters for a short conversation"}
    except Refused as refusal:
        return {"error": f"refuses this conversation: {refusal}"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"is not valid Jinja: {error}"}
    except MemoryError:
        return {"error": "needs too much memory"}
    except Exception as error:  # whatever the operations of a template can raise
        return {"error": f"fails: {type(error).__name__}: {error}"}
    return {"texts": texts}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    limit_resources(request.pop("seconds"))
    try:
        reply = json.dumps(apply(**request))
    except MemoryError:
        reply = json.dumps({"error": "needs too much memory"})
    sys.stdout.write(reply)
