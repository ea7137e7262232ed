"""Putting stake behind an operator, from the command line: delegate, undelegate, claim; and an operator's commission.

Each sends one transaction and says what came of it, as node.validator does.
"""

import re

from node.client import RpcFailure
from node.exits import RUNTIME, USAGE, Fatal
from node.story import coins
from node.validator import Operator, Report, parse_coins
from primitives.address import STAKING, InvalidAddress, checksum, parse
from vm.system import abi

PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")


def delegate(sender: Operator, operator: str, amount: str) -> Report:
    """Staking.delegate."""
    wei, address = parse_coins(amount), _address(operator)
    done = sender.send(abi.DELEGATE, address, value=wei)
    total = done.event(abi.DELEGATED)["delegated"]
    lines = [
        f"{coins(wei)} coins stand behind {checksum(address)}, {coins(total)} of all delegators",
        f"they weigh in its draws now and in its votes from the turn after next on; `labora claim {checksum(address)}` "
        "fetches what they earn",
    ]
    return done.told(lines, operator=checksum(address), amountWei=str(wei), delegatedWei=str(total))


def undelegate(sender: Operator, operator: str, amount: str | None) -> Report:
    """Staking.undelegate, of so many coins or of all (None)."""
    address = _address(operator)
    stake, _ = _delegation(sender, address)
    if not stake:
        raise Fatal(RUNTIME, f"{sender.name} has nothing delegated to {checksum(address)}")
    wei = stake if amount is None else parse_coins(amount)
    if wei > stake:
        raise Fatal(RUNTIME, f"{coins(stake)} coins are delegated to {checksum(address)}, not {coins(wei)}")
    done = sender.send(abi.UNDELEGATE, address, wei)
    event = done.event(abi.UNDELEGATED)
    release = event["releaseBlock"]
    lines = [
        f"{coins(event['amount'])} coins leave {checksum(address)} in block {release}, and can be slashed until then",
        f"`labora claim {checksum(address)}` fetches them from block {release} on",
    ]
    return done.told(lines, operator=checksum(address), amountWei=str(event["amount"]), releaseBlock=release)


def claim(sender: Operator, operator: str) -> Report:
    """Staking.claim, and Staking.withdraw where something has finished leaving."""
    address = _address(operator)
    _, rewards = _delegation(sender, address)
    (queue,) = abi.UNBONDINGS.decode_result(
        sender.client.read_contract(STAKING, abi.UNBONDINGS.encode_call(sender.address))
    )
    ended = bool(queue) and queue[0][1] <= sender.client.number("eth_blockNumber") + 1
    if not rewards and not ended:
        waits = f"; {coins(queue[0][0])} coins leave in block {queue[0][1]}" if queue else ""
        raise Fatal(RUNTIME, f"{checksum(address)} has earned {sender.name} nothing to claim{waits}")
    lines, values, done = [], {"rewardsWei": "0", "withdrawnWei": "0"}, None
    if rewards:
        done = sender.send(abi.CLAIM, address)
        wei = done.event(abi.CLAIMED)["amount"]
        lines.append(f"{coins(wei)} coins of rewards from {checksum(address)}")
        values["rewardsWei"] = str(wei)
    if ended:
        done = sender.send(abi.WITHDRAW)
        wei = done.event(abi.WITHDRAWN)["amount"]
        lines.append(f"{coins(wei)} coins that had finished leaving")
        values["withdrawnWei"] = str(wei)
    assert done is not None
    return done.told(lines, **values)


def commission(operator: Operator, percent: str) -> Report:
    """Staking.declareCommission. percent: with at most two digits after the point."""
    match = PERCENT.fullmatch(percent)
    points = -1 if match is None else int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    if not 0 <= points <= 10_000:
        raise Fatal(USAGE, f"{percent!r} is no commission: 0 to 100, at most two digits after the point")
    operator.require()
    done = operator.send(abi.DECLARE_COMMISSION, points)
    epoch = done.event(abi.COMMISSION_DECLARED)["fromEpoch"]
    line = f"of what delegated stake earns, {percent} % are the operator's from epoch {epoch} on"
    return done.told([line], basisPoints=points, fromEpoch=epoch)


def _delegation(sender: Operator, operator: bytes) -> tuple[int, int]:
    """(stake, rewards) of who sends with an operator, in wei."""
    call = abi.GET_DELEGATION.encode_call(sender.address, operator)
    try:
        stake, rewards = abi.GET_DELEGATION.decode_result(sender.client.read_contract(STAKING, call))
    except RpcFailure as failure:
        raise Fatal(RUNTIME, f"the delegation cannot be read: {failure.message}") from failure
    return int(stake), int(rewards)


def _address(text: str) -> bytes:
    try:
        return parse(text)
    except InvalidAddress as error:
        raise Fatal(USAGE, f"{text!r} is no operator's address: {error}") from error
