"""The verb `serve`."""

import sys
from typing import Annotated

import typer

from kshot.cli.options import (
    AbstainOption,
    AllowCodeOption,
    ApiOption,
    DeviceOption,
    DtypeOption,
    MovedModelOption,
    OtherDtypeOption,
    RevisionOption,
    TrustOption,
)
from kshot.cli.output import guarded
from kshot.core.errors import UserError, missing_extra


@guarded
def serve(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    host: Annotated[
        str, typer.Option(help="Any other than this machine's own needs a key in KSHOT_SERVE_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What requests call the model; by default as its task.")] = None,
    waiting: Annotated[int, typer.Option(help="Inputs that may wait; more are told to come again (429).")] = 256,
    abstain: AbstainOption = None,
    model: MovedModelOption = None,
    api: ApiOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: AllowCodeOption = False,
    allow_other_dtype: OtherDtypeOption = False,
) -> None:
    """Answer over HTTP until Ctrl-C.

    It is a decision endpoint, OpenAI's API, and a page to try it.
    """
    if not 0 <= port <= 65535 or waiting < 1:
        raise UserError(f"--port must be within 0..65535 and --waiting 1 or more; got {port} and {waiting}.")
    try:
        from kshot.serve.listening import SERVED_AT, bound, key_of, serve, served
        from kshot.serve.steady_memory import keep_few_kernels
    except ImportError as error:
        raise missing_extra(error.name or "uvicorn", "serve", "`kshot serve`") from error
    from kshot.adapted.folder import load

    keep_few_kernels()
    key = key_of(host)
    listening = bound(host, port)  # before a model is loaded
    with listening:
        adapted = load(
            folder,
            model=model,
            api=api,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_code=allow_code,
            allow_other_dtype=allow_other_dtype,
        )
        adapted = adapted if abstain is None else adapted.abstaining(abstain)
        shown = f"[{host}]" if ":" in host else host
        own = served(adapted.warm(), name or adapted.task.name, key=key, most_waiting=waiting)
        where = f"http://{shown}:{listening.getsockname()[1]}"
        keyed = ", with the key of KSHOT_SERVE_KEY" if key else ""
        told = f"'{own.name}'{SERVED_AT}{where}/v1 and /predict{keyed}; try it in a browser at {where}/; Ctrl-C ends it"
        serve(own, listening, ready=lambda: _log(told), log=_log)
        n = own.counts.cut_short
        done = f"{n} of the requests that had come got no answer" if n else "what had come was answered"
        _log(f"'{own.name}' is no longer served; {done}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
