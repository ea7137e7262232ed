"""labora validator status: every operator's bond, votes and credit, what it declared, what went wrong.

Owns how it is shown; the chain keeps it (labora_validators), and primitives.reasons says what a reason means.
"""

from typing import Any

from node.client import Client
from node.declare import terms_in_words
from node.exits import RUNTIME, USAGE, Fatal
from node.story import coins
from primitives.address import InvalidAddress, checksum, parse
from primitives.reasons import reason_of

SHOWN = 8
"""Of each operator's mishaps, in lines, the newest; JSON has all that the chain keeps."""
KINDS = (("slashes", "slashed for"), ("misses", "missed"), ("refusals", "message refused of"))
"""Lists of mishaps, and what they are called in a line; among those of one block in this order."""


def status(client: Client, operator: str | None) -> list[dict[str, Any]]:
    """Every operator, or the one that is asked for, as `--json` prints it; wei and CWU are decimal strings, the newest
    mishaps come first. Raises Fatal."""
    rows = [_row(row) for row in client.call("labora_validators")["validators"]]
    if operator is None:
        return rows
    try:
        wanted = checksum(parse(operator))
    except InvalidAddress as error:
        raise Fatal(USAGE, f"--operator: {error}") from error
    rows = [row for row in rows if row["operator"] == wanted]
    if not rows:
        raise Fatal(RUNTIME, f"{wanted} is no active operator of the chain at {client.url}")
    return rows


def lines(client: Client, rows: list[dict[str, Any]]) -> list[str]:
    """The same for people: a table, then each operator's mishaps with advice."""
    head = client.call("labora_validators")
    total = head["totalPower"]
    said = [
        f"height {head['height']}, epoch {head['epoch']}, total power {total}; dealt and missed: tasks to execute, in "
        "this epoch",
        f"{'operator':<44}{'bond':>12}{'votes':>9}{'credit (CWU)':>16}{'dealt':>7}{'missed':>8}  state",
    ]
    for row in rows:
        share = f"{row['power'] * 100 / total:.1f} %"
        state = "jailed" if row["jailed"] else "active" if row["power"] else "not in this epoch's set"
        said.append(
            f"{row['operator']:<44}{coins(row['bond']):>12}{share:>9}{row['credit']:>16}"
            f"{row['dealt']:>7}{row['missed']:>8}  {state}"
        )
    for row in rows:
        more = _delegation(row) + _terms(row) + _mishaps(row)
        if more:
            said += ["", row["operator"], *(f"  {line}" for line in more)]
    return said


def _delegation(row: dict[str, Any]) -> list[str]:
    """Whether it takes coins of others, and how many stand behind it."""
    if row["commission"] is None and row["delegated"] == "0":
        return []
    keeps = "none more" if row["commission"] is None else f"{row['commission'] / 100:g} % of their fees are its own"
    return [f"{coins(row['delegated'])} coins of delegators stand behind it: {keeps}"]


def _terms(row: dict[str, Any]) -> list[str]:
    """What it declared that it does not take."""
    said = terms_in_words(row["terms"])
    if (latest := row["nextTerms"]) is not None:
        told = "; ".join(terms_in_words(latest)) or "takes every task of what it serves"
        said.append(f"from block {latest['fromBlock']} on: {told}")
    return said


def _mishaps(row: dict[str, Any]) -> list[str]:
    """The newest, and what every reason among them means."""
    needless = [mishap["reason"] for mishap in row["refusals"] if reason_of(mishap["reason"]).harmless]
    found = [
        (what, mishap) for kind, what in KINDS for mishap in row[kind]
        if kind != "refusals" or mishap["reason"] not in needless
    ]  # fmt: skip
    found.sort(key=lambda each: -each[1]["block"])
    shown, hidden = found[:SHOWN], len(found) - SHOWN
    said = [_mishap(what, mishap) for what, mishap in shown]
    if hidden > 0:
        said.append(f"and {hidden} before that the chain keeps: --json has all")
    for code in dict.fromkeys(mishap["reason"] for _, mishap in shown):
        said.append(f"{code}: {reason_of(code).text}; {reason_of(code).advice}")
    if needless:
        codes = ", ".join(sorted(set(needless)))
        said.append(f"another message came before {len(needless)} of its last ones ({codes}): nothing to do")
    return said


def _row(row: dict[str, Any]) -> dict[str, Any]:
    epoch = row["thisEpoch"]
    names = ("misses", "slashes", "refusals", "active", "jailed", "serves", "terms", "nextTerms")
    same = {name: row[name] for name in names}
    return {
        "operator": row["operator"], "bond": row["bondWei"], "credit": row["credit"], "power": row["power"],
        "delegated": row["delegatedWei"], "commission": row["commission"], **same,
        "dealt": epoch["dealt"], "missed": epoch["missed"],
    }  # fmt: skip


def _mishap(what: str, mishap: dict[str, Any]) -> str:
    wei = f", {coins(mishap['amountWei'])} of its bond" if "amountWei" in mishap else ""
    excused = "" if mishap.get("counted", True) else " (not counted)"
    return f"block {mishap['block']:>6}  {what} task {mishap['task'][:18]}: {mishap['reason']}{wei}{excused}"
