"""How the node speaks: structlog to standard error, as terminal text, logfmt or JSON lines."""

import logging
import sys

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(level: str, form: str) -> None:
    """Configure every logger of this process. form: terminal, logfmt or json."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hex,
    ]
    if form == "json":
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    elif form == "logfmt":
        order = ["timestamp", "level", "event"]
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True),
        ]
    else:
        from structlog.dev import ConsoleRenderer

        processors.append(ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )

    # The network package speaks through the standard library's logging.
    library = logging.getLogger("labora")
    library.handlers = [_Forward()]
    library.setLevel(_LEVELS[level])
    library.propagate = False


class _Forward(logging.Handler):
    """Records of the standard library's loggers, as events of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        exc_info = {"exc_info": record.exc_info} if record.exc_info else {}
        logger.log(record.levelno, record.getMessage(), **exc_info)


def _hex(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Hashes and addresses are bytes in this program and hex in its log."""
    return {key: "0x" + value.hex() if isinstance(value, bytes) else value for key, value in event.items()}
