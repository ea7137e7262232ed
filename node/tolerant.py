"""`labora model run NAME --engine openai --url URL`: an answer of the tolerant lane, marked as such, and its check
against a second server. Owns what is printed: text to standard output, the mark and the margins to standard error.
"""

import json
import sys

from inference.tolerant import CANDIDATES_MAX, Report, ServerError, check
from node.exits import RUNTIME, USAGE, Fatal
from node.openai import Server, candidates_after, check_url, generate

MARK = "tolerant lane: floats, not reproducible bit for bit; no proof, no vote, no credit"


def run(
    url: str, model: str, key: str, prompt: str, max_tokens: int, temperature: float, top_k: int, seed: bytes,
    judge: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask, print, and check if there is a judge. A check that finds margins too large ends with exit code 1."""
    for option, address in (("--url", url), ("--check", judge)):
        if address is not None and (wrong := check_url(address)) is not None:
            raise Fatal(USAGE, f"{option} {address!r:.200}: {wrong}")
    candidates = top_k or CANDIDATES_MAX
    if candidates > CANDIDATES_MAX:
        raise Fatal(USAGE, f"--top-k {top_k}: a server lists at most {CANDIDATES_MAX} candidates a token")
    report: Report | None = None
    try:
        answer = generate(Server(url, model, key), prompt, max_tokens, temperature, candidates, seed)
        if judge is not None:
            listed = candidates_after(Server(judge, model, key), prompt, answer.tokens, candidates)
            report = check(answer.tokens, listed, temperature, seed)
    except ServerError as error:
        raise Fatal(RUNTIME, str(error)) from error
    if as_json:
        print(json.dumps({
            "lane": "tolerant", "verified": False, "model": model, "server": url, "text": answer.text,
            "tokens": list(answer.tokens), "ended": answer.ended, "temperature": temperature, "seed": f"0x{seed.hex()}",
            "check": None if report is None or judge is None else report_as_json(report, judge),
        }))  # fmt: skip
    else:
        print(answer.text)
        print(f"{len(answer.tokens)} tokens from {url}. {MARK}", file=sys.stderr)
        if report is not None:
            print(report_sentence(report, str(judge)), file=sys.stderr)
    if report is not None and not report.within:
        raise Fatal(RUNTIME, f"{report.beyond} of {len(report.margins)} tokens are not what {judge} would have drawn")


def report_as_json(report: Report, judge: str) -> dict[str, object]:
    """A check as JSON."""
    return {
        "server": judge, "within": report.within, "allowedNats": report.allowed, "largestNats": report.largest,
        "meanNats": report.mean, "positions": len(report.margins), "beyond": report.beyond, "unseen": report.unseen,
    }  # fmt: skip


def report_sentence(report: Report, judge: str) -> str:
    """A check in words."""
    return (
        f"checked against {judge}: margins of {report.mean:.4f} nats on average, {report.largest:.4f} at most "
        f"({report.allowed:g} allowed), {report.unseen} tokens not among its candidates"
    )
