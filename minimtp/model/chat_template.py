"""Applies a chat template in a process of its own: python -m minimtp.model.chat_template

A template comes from a stranger. Jinja's sandbox keeps it from files and modules, but not from
endless loops or from strings that double a hundred times. So it gets a process with little memory
and little time, and a template that needs more ends with that process.

Standard input: {"template", "conversations": [messages, ...], "variables"} as JSON. Standard
output: {"texts": [...]} or {"error": ...}.
"""

import json
import sys
from datetime import datetime

MAX_MEMORY = 2**28  # bytes of address space


def limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: only the time is limited
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def apply(template: str, conversations: list, variables: dict) -> dict[str, object]:
    """Return the text of every conversation, or the reason why there is none."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(Exception):
        """The template itself refuses the conversation."""

    def refuse(message: object) -> None:
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    try:
        compiled = environment.from_string(template)
        texts = [compiled.render(messages=messages, **variables) for messages in conversations]
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
    limit_memory()
    json.dump(apply(**request), sys.stdout)
