"""What the command line says when a command does not end well: one line, and the exit code that goes with it."""

import logging
import os
import sys
from difflib import get_close_matches

from engine.errors import EngineError, UsageError

INTERRUPTED, READER_GONE, DEFECT, MISUSED = 130, 141, 3, 2
"""Exit codes beside those of the engine's own errors: as shells have them where they have one."""


def quiet_libraries() -> None:
    """Let libraries log and warn only as ENGINE_LOG says, by default errors: a refusal stays one line.

    Raises:
        UsageError: If ENGINE_LOG is no level of logging.
    """
    level = os.environ.get("ENGINE_LOG", "").upper()
    if level and level not in logging.getLevelNamesMapping():
        raise UsageError(f"ENGINE_LOG must be a level of logging, not '{level.lower()}'. Set it to debug or info.")
    logging.basicConfig(level=level or "ERROR")
    if not level:
        logging.getLogger("torch").setLevel(logging.CRITICAL)  # it logs a traceback per size that a model refuses
    if not sys.warnoptions:
        logging.captureWarnings(True)


def told(error: BaseException) -> int:
    """Say on standard error, in one line, why a command ended, and return its exit code."""
    if isinstance(error, EngineError):
        return _say(type(error).__name__, str(error), code=error.exit_code)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return _say("interrupted", "what is stored is kept. Go on with 'engine resume OUTPUT'.", code=INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        return READER_GONE
    if any(kind.__name__ == "ClickException" for kind in type(error).__mro__):  # wherever typer's click lives
        return _say("UsageError", _usage(error), code=MISUSED)
    logging.getLogger("engine").debug("the defect", exc_info=error)
    what = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split())[:300].rstrip(". "))))
    cure = "Please report this defect of the engine; set ENGINE_LOG=debug for the traceback."
    return _say("InternalError", f"{what}. {cure}", code=DEFECT)


def _usage(error: BaseException) -> str:
    """Return what click says of a command line, with the nearest name there is, and where to read on."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "engine")
    advice = f"See '{command} --help'."
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(f"{context.get_help()}\n")
        return f"'{command}' needs a command. {advice}"
    option = getattr(error, "option_name", None)
    if option and type(error).__name__ == "NoSuchOption":
        near = get_close_matches(option, getattr(error, "possibilities", None) or (), n=1)
        guess = f"Did you mean '{near[0]}'? " if near else ""
        return f"'{command}' has no option '{option}'. {guess}{advice}"
    text = str(getattr(error, "format_message", lambda: error)()).strip()
    if text.startswith("No such command '") and "Did you mean" not in text:  # click before 8.2
        names = getattr(getattr(context, "command", None), "commands", ())
        text = text.rstrip(".") + "".join(
            f". Did you mean '{near}'?" for near in get_close_matches(text.split("'")[1], names, n=1)
        )
    return f"{text if text.endswith(('.', '?')) else text + '.'} {advice}"


def _say(kind: str, message: str, *, code: int) -> int:
    sys.stderr.write(" ".join(f"{kind}: {message}".split()) + "\n")
    return code
