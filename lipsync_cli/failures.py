"""Turns an error of a command into one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lipsync_cli.extras import advice

if TYPE_CHECKING:  # commands import what they need when they run
    from lipsync_client import LipsyncError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class CliError(Exception):
    """An error that the user can act on. Its text is one sentence."""


class Command(TyperCommand):
    """A command that writes an error as one sentence to stderr, with a traceback only after --debug."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override,unused-ignore]  # typer's own click
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's words
            raise

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override,unused-ignore]  # typer's own click
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of the output has closed it; typer ends quietly
        except Exception as error:
            if ctx.find_root().params.get("debug"):
                raise
            complain(f"error: {sentence(error)}")
            raise typer.Exit(EXIT_FAILED) from None


class RootGroup(TyperGroup):
    """The root of the commands. It takes `--debug` from any place on the command line."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override,unused-ignore]  # typer's own click
        if "--debug" in args:
            args = ["--debug", *(argument for argument in args if argument != "--debug")]
        return super().parse_args(ctx, args)


def complain(text: str) -> None:
    """Writes a line to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def answered(server: str, error: LipsyncError) -> str:
    """Says which error a server gave, or calling it; a balancer in between counts as the call."""
    if not error.from_server:
        return f"calling {server} failed: {error}"
    hint = " (--api-key-file FILE, or LIPSYNC_API_KEY)" if error.code.name == "UNAUTHENTICATED" else ""
    return f"{server} answered {error}{hint}"


def sentence(error: Exception) -> str:
    """Writes an error for people. An unexpected one is called so."""
    from lipsync_client import LipsyncError

    if isinstance(error, ModuleNotFoundError) and (text := advice(error)):
        return text
    if isinstance(error, LipsyncError):
        return answered("the server", error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error)
    if text and isinstance(error, CliError | OSError):
        return text
    if text and (known := _known_to_services(error)):
        return known
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text} (--debug shows where)"


def _known_to_services(error: Exception) -> str | None:
    try:
        from avatar_kit.errors import AvatarError, one_line
        from service_kit.errors import ServiceError
        from service_kit.listening import StartError
        from service_kit.settings import SettingsError
    except ModuleNotFoundError:  # the extra `services` is not installed
        return None
    if isinstance(error, AvatarError):
        return one_line(str(error))
    return str(error) if isinstance(error, SettingsError | ServiceError | StartError) else None
