"""Every function, event and struct of the system accounts 0a01-0a07 and 0a09, written once, as Solidity writes them.

contracts/*.json and contracts/*.sol are generated from this file. Knows encoding (eth-abi) and nothing of rules. Logs
are meant to tell a task's whole story alone: who asked, to whom which block dealt it, who did it in how many ms on
which device, who was drawn to check, what they revealed, agreed or not, who was paid what, and the compute receipt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import eth_abi
from eth_abi.exceptions import DecodingError

from primitives.address import BEACON, COURIER, LEDGER, MARKET, MODELS, REFEREE, STAKING, TOLERANT
from primitives.hashing import keccak
from primitives.receipt import Log
from vm.system.context import SystemContext

REVERT_STRING = keccak(b"Error(string)")[:4]


class AbiError(ValueError):
    """Bytes that are not the ABI encoding they should be."""


@dataclass(frozen=True)
class Param:
    """A parameter or a member: its Solidity type (a struct by its name), name, and whether an event indexes it."""

    type: str
    name: str
    indexed: bool = False

    @cached_property
    def struct(self) -> "Struct | None":
        """The struct that the type names, or whose array it is."""
        return STRUCTS.get(self.type.partition("[")[0])

    @cached_property
    def canonical(self) -> str:
        """The type as selectors and eth-abi write it: structs are tuples."""
        base, bracket, rest = self.type.partition("[")
        if self.struct is not None:
            base = "(" + ",".join(member.canonical for member in self.struct.members) + ")"
        return base + bracket + rest

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether an indexed value of the type is logged as its hash."""
        return self.struct is not None or "[" in self.type or self.type in ("bytes", "string")


@dataclass(frozen=True)
class Struct:
    """A Solidity struct."""

    name: str
    members: tuple[Param, ...]

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """Decoded values by member name."""
        return {member.name: value for member, value in zip(self.members, values, strict=True)}


@dataclass(frozen=True)
class Function:
    """A method of a system account. mutability: "view", "nonpayable" or "payable"."""

    account: bytes
    name: str
    inputs: tuple[Param, ...]
    outputs: tuple[Param, ...]
    mutability: str
    bare: bool = False
    """Its one argument, bytes, follows the selector as it is: nodes send it with every block, and no contract may.
    Interfaces in Solidity and JSON leave it out, for they cannot say so."""

    @cached_property
    def signature(self) -> str:
        return f"{self.name}({','.join(param.canonical for param in self.inputs)})"

    @cached_property
    def selector(self) -> bytes:
        """First four bytes of keccak(signature)."""
        return keccak(self.signature.encode("ascii"))[:4]

    def encode_call(self, *values: Any) -> bytes:
        """Calldata: selector and arguments."""
        if self.bare:
            return self.selector + bytes(values[0])
        return self.selector + bytes(eth_abi.encode([param.canonical for param in self.inputs], values))

    def decode_arguments(self, data: bytes) -> tuple[Any, ...]:
        """Arguments of calldata without its selector. Raises AbiError."""
        return (data,) if self.bare else _decode(self.inputs, data)

    def encode_result(self, values: Sequence[Any]) -> bytes:
        """Return data."""
        return bytes(eth_abi.encode([param.canonical for param in self.outputs], values))

    def decode_result(self, data: bytes) -> tuple[Any, ...]:
        """Values of return data. Raises AbiError."""
        return _decode(self.outputs, data)


@dataclass(frozen=True)
class Event:
    """A log entry's form: topic 0 is keccak(signature), then the indexed parameters, the others are data."""

    account: bytes
    name: str
    params: tuple[Param, ...]

    @cached_property
    def signature(self) -> str:
        return f"{self.name}({','.join(param.canonical for param in self.params)})"

    @cached_property
    def topic(self) -> bytes:
        return keccak(self.signature.encode("ascii"))

    @cached_property
    def _indexed(self) -> tuple[Param, ...]:
        return tuple(param for param in self.params if param.indexed)

    @cached_property
    def _plain(self) -> tuple[Param, ...]:
        return tuple(param for param in self.params if not param.indexed)

    def encode(self, *values: Any) -> tuple[tuple[int, ...], bytes]:
        """Topics (as integers) and data of a log; values in the order of the declaration."""
        assert len(values) == len(self.params), (self.name, values)
        topics = [int.from_bytes(self.topic, "big")]
        types: list[str] = []
        plain: list[Any] = []
        for param, value in zip(self.params, values, strict=True):
            if param.indexed:
                topics.append(int.from_bytes(_word(param.canonical, value), "big"))
            else:
                types.append(param.canonical)
                plain.append(value)
        return tuple(topics), encode(types, plain)

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Values by name of a log (topics as 32-byte strings). Raises AbiError."""
        if not topics or topics[0] != self.topic or len(topics) != len(self._indexed) + 1:
            raise AbiError(f"the log's topics are not those of {self.signature}")
        values = dict(zip((param.name for param in self._plain), _decode(self._plain, data), strict=True))
        for param, topic in zip(self._indexed, topics[1:], strict=True):
            values[param.name] = _decode((param,), topic)[0]
        return {param.name: values[param.name] for param in self.params}


def emit(ctx: SystemContext, event: Event, *values: Any) -> None:
    """Log an event of the account that declares it."""
    topics, data = event.encode(*values)
    ctx.log(event.account, topics, data)


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """The ABI encoding of values of elementary types and of arrays of those without a size: what logs are made of.
    Addresses and bytes32 are bytes. (eth-abi's own takes ten times as long, and a task leaves twenty logs.)"""
    heads: list[bytes] = []
    tails: list[bytes] = []
    offset = 32 * len(types)
    for kind, value in zip(types, values, strict=True):
        if kind in ("bytes", "string"):
            data = value.encode("utf-8") if kind == "string" else value
            tail = len(data).to_bytes(32, "big") + data + bytes(-len(data) % 32)
        elif kind.endswith("[]"):
            tail = len(value).to_bytes(32, "big") + b"".join([_word(kind[:-2], item) for item in value])
        else:
            heads.append(_word(kind, value))
            continue
        heads.append(offset.to_bytes(32, "big"))
        tails.append(tail)
        offset += len(tail)
    return b"".join(heads + tails)


def _word(kind: str, value: Any) -> bytes:
    """A value of an elementary type of a fixed size; an address may be text, as decoded logs have it."""
    if kind == "address":
        address = bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else bytes(value)
        assert len(address) == 20, value
        return bytes(12) + address
    if kind == "bytes32":
        assert len(value) == 32, value
        return bytes(value)
    if kind == "bool":
        return int(bool(value)).to_bytes(32, "big")
    bits = int(kind.removeprefix("uint"))
    assert 0 <= value < 1 << bits, (kind, value)
    return int(value).to_bytes(32, "big")


def revert_data(text: str) -> bytes:
    """Return data of a refused call: Error(string)."""
    return REVERT_STRING + bytes(eth_abi.encode(["string"], [text]))


def revert_text(data: bytes) -> str | None:
    """The text of Error(string) return data; None for any other data."""
    if data[:4] != REVERT_STRING:
        return None
    try:
        return str(eth_abi.decode(["string"], data[4:])[0])
    except (DecodingError, UnicodeDecodeError, OverflowError):
        return None


def _decode(params: Sequence[Param], data: bytes) -> tuple[Any, ...]:
    try:
        return tuple(eth_abi.decode([param.canonical for param in params], data))
    except (DecodingError, UnicodeDecodeError, OverflowError) as error:
        raise AbiError(f"malformed arguments: {error}") from error


def _params(text: str) -> tuple[Param, ...]:
    params: list[Param] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        words = item.split()
        params.append(Param(words[0], words[-1] if len(words) > 1 else "", "indexed" in words[1:-1]))
    return tuple(params)


def event_of(log: Log) -> "Event | None":
    """Which event a log is. None of what another account than the event's own logged: any contract may log the same
    topics, with any data."""
    event = EVENTS.get(log.topics[0]) if log.topics else None
    return event if event is not None and event.account == log.address else None


def _struct(text: str) -> Struct:
    name, _, members = text.partition("{")
    members = ",".join(members.strip().rstrip("}").strip().rstrip(";").split(";"))
    struct = Struct(name.strip(), _params(members))
    STRUCTS[struct.name] = struct
    return struct


def _function(account: bytes, text: str, bare: bool = False) -> Function:
    match = re.fullmatch(
        r"(\w+)\(([^)]*)\)\s*(view|payable)?\s*(?:returns\s*\(([^)]*)\))?", " ".join(text.split())
    )
    assert match is not None, text
    name, inputs, mutability, outputs = match.groups()
    function = Function(account, name, _params(inputs), _params(outputs or ""), mutability or "nonpayable", bare)
    assert function.selector not in FUNCTIONS.setdefault(account, {}), text
    FUNCTIONS[account][function.selector] = function
    return function


def _event(account: bytes, text: str) -> Event:
    match = re.fullmatch(r"(\w+)\(([^)]*)\)", " ".join(text.split()))
    assert match is not None, text
    event = Event(account, match.group(1), _params(match.group(2)))
    assert sum(param.indexed for param in event.params) <= 3
    assert not any(param.indexed and param.is_dynamic for param in event.params)
    assert event.topic not in EVENTS, text
    EVENTS[event.topic] = event
    return event


STRUCTS: dict[str, Struct] = {}
FUNCTIONS: dict[bytes, dict[bytes, Function]] = {}
"""Account -> selector -> function, in declared order."""
EVENTS: dict[bytes, Event] = {}
"""Topic 0 -> event, over all accounts."""

NAMES = {
    STAKING: "Staking",
    MODELS: "Models",
    MARKET: "Market",
    LEDGER: "Ledger",
    REFEREE: "Referee",
    BEACON: "Beacon",
    COURIER: "Courier",
    TOLERANT: "Tolerant",
}

# -------------------------------------------------------------------------------- Staking

OPERATOR = _struct("""Operator {
    address operator; address consensusAddress; bytes beaconKey; bytes32 nodeKey; address hot; address payout;
    uint256 bond; uint256 unbonding; bool active; bool jailed; uint64 registeredBlock; uint256 delegated; }""")
UNBONDING = _struct("Unbonding { uint256 amount; uint64 releaseBlock; address delegatedTo; }")
MISHAP = _struct("Mishap { bytes32 task; uint64 blockNumber; uint8 reason; uint8 role; bool counted; uint256 amount; }")

REGISTER = _function(STAKING, """register(address consensusAddress, bytes consensusSignature, bytes beaconKey,
    bytes beaconProof, bytes32 nodeKey, address hot, bytes hotSignature, address payout) payable""")
BOND = _function(STAKING, "bond() payable")
UNBOND = _function(STAKING, "unbond(uint256 amount)")
WITHDRAW = _function(STAKING, "withdraw() returns (uint256 amount)")
SET_PAYOUT = _function(STAKING, "setPayout(address payout)")
DECLARE_COMMISSION = _function(STAKING, "declareCommission(uint16 basisPoints)")
DELEGATE = _function(STAKING, "delegate(address operator) payable")
UNDELEGATE = _function(STAKING, "undelegate(address operator, uint256 amount)")
CLAIM = _function(STAKING, "claim(address operator) returns (uint256 amount)")
GET_DELEGATION = _function(STAKING, """getDelegation(address delegator, address operator) view
    returns (uint256 amount, uint256 rewards)""")
COMMISSION = _function(STAKING, """commission(address operator) view
    returns (bool declared, uint16 basisPoints, uint16 nextBasisPoints, uint64 nextFromEpoch)""")
GET_OPERATOR = _function(STAKING, "getOperator(address operator) view returns (Operator info)")
OPERATOR_BY_HOT = _function(STAKING, "operatorByHot(address hot) view returns (address operator)")
OPERATORS = _function(STAKING, "operators() view returns (address[] active)")
UNBONDINGS = _function(STAKING, "unbondings(address operator) view returns (Unbonding[] queue)")
MISHAPS = _function(STAKING, """mishaps(address operator) view returns (Mishap[] misses, Mishap[] refusals,
    Mishap[] slashes)""")
"""The last of each, the newest first; reason: primitives/reasons.py."""

REGISTERED = _event(STAKING, """Registered(address indexed operator, address indexed consensusAddress,
    address indexed hot, bytes beaconKey, bytes32 nodeKey, address payout)""")
BONDED = _event(STAKING, "Bonded(address indexed operator, uint256 amount, uint256 bond)")
UNBONDED = _event(STAKING, "Unbonded(address indexed operator, uint256 amount, uint256 bond, uint64 releaseBlock)")
WITHDRAWN = _event(STAKING, "Withdrawn(address indexed operator, uint256 amount)")
ACTIVATED = _event(STAKING, "Activated(address indexed operator)")
DEACTIVATED = _event(STAKING, "Deactivated(address indexed operator, string reason)")
SLASHED = _event(STAKING, """Slashed(address indexed operator, bytes32 indexed task, uint8 reason, uint256 amount,
    uint256 bond, uint256 unbonding)""")
COMMISSION_DECLARED = _event(STAKING, """CommissionDeclared(address indexed operator, uint16 basisPoints,
    uint64 fromEpoch)""")
DELEGATED = _event(STAKING, """Delegated(address indexed delegator, address indexed operator, uint256 amount,
    uint256 delegated)""")
UNDELEGATED = _event(STAKING, """Undelegated(address indexed delegator, address indexed operator, uint256 amount,
    uint256 delegated, uint64 releaseBlock)""")
CLAIMED = _event(STAKING, "Claimed(address indexed delegator, address indexed operator, uint256 amount)")
PAYOUT_CHANGED = _event(STAKING, "PayoutChanged(address indexed operator, address payout)")

# -------------------------------------------------------------------------------- Models

MODEL = _struct("""Model {
    bytes32 model; string name; bool listed; uint256 a; uint256 b; uint256 c; uint32 vocabulary; uint32 context;
    uint32 width; bool encoder; uint32 auditWeightNum; uint32 auditWeightDen; uint256 referenceMacsPerBlock;
    uint32[] stopIds; address registrant; uint32 servedBy; uint256 servedBond; bytes record; bytes32 programRoot; }""")
SERVING = _struct("""Serving {
    bytes32 model; uint256 declaredMacsPerBlock; uint256 bestMacsPerBlock; uint32 scaleQ16; uint32 dealt;
    uint32 missed; }""")

REGISTER_MODEL = _function(MODELS, """register(bytes32 model, string name, string uri, string licence,
    bytes record, bytes32 programRoot, uint32[] stopIds, uint256 referenceMacsPerBlock)""")
SERVE = _function(MODELS, "serve(bytes32 model, uint256 macsPerBlock)")
STOP_SERVING = _function(MODELS, "stopServing(bytes32 model)")
GET_MODEL = _function(MODELS, "getModel(bytes32 model) view returns (Model info)")
IS_SUSPENDED = _function(MODELS, "isSuspended(bytes32 model) view returns (bool suspended)")
"""The two referees disagreed about it: nothing of it is posted, dealt or checked."""
MODEL_LIST = _function(MODELS, "models() view returns (bytes32[] ids)")
SERVERS = _function(MODELS, "servers(bytes32 model) view returns (address[] operators)")
GET_SERVING = _function(MODELS, "getServing(address operator) view returns (Serving[] models)")

MODEL_SUSPENDED = _event(MODELS, "ModelSuspended(bytes32 indexed model, uint64 indexed dispute)")

TERMS = _struct("""Terms {
    uint256 reservePrice; uint32 hoursUtc; uint8 refusedKinds; uint256 macsMax; bytes8[] refusedModels; }""")
DECLARE = _function(MODELS, """declare(uint256 reservePrice, uint32 hoursUtc, uint8 refusedKinds, uint256 macsMax,
    bytes32[] refusedModels)""")
"""What the caller does not take, from the epoch after next on. Models are kept by the first eight bytes of an id."""
GET_TERMS = _function(MODELS, """getTerms(address operator) view returns (Terms now, Terms latest,
    uint64 latestFromBlock)""")
TERMS_DECLARED = _event(MODELS, """TermsDeclared(address indexed operator, uint64 fromBlock, uint256 reservePrice,
    uint32 hoursUtc, uint8 refusedKinds, uint256 macsMax, bytes32[] refusedModels)""")

MODEL_REGISTERED = _event(MODELS, """ModelRegistered(bytes32 indexed model, address indexed registrant, string name,
    string uri, string licence)""")
SERVING_STARTED = _event(MODELS, """ServingStarted(address indexed operator, bytes32 indexed model,
    uint256 macsPerBlock)""")
SERVING_STOPPED = _event(MODELS, "ServingStopped(address indexed operator, bytes32 indexed model)")

# -------------------------------------------------------------------------------- Market

TASK = _struct("""Task {
    bytes32 task; uint8 status; uint8 kind; uint8 attempt; bool canary; address poster; bytes32 model;
    bytes32 promptHash; bytes32 outputHash; bytes32 seed; uint32 promptTokens; uint32 outputTokens;
    uint32 maxTokens; uint32 temperatureQ16; uint32 topK; uint8 assurance; uint8 auditors;
    uint32 deadlineBlocks; uint64 postedBlock; uint64 dealtBlock;
    uint64 answeredBlock; uint64 drawnBlock; uint64 revealingBlock; uint64 agreedBlock; uint64 doneBlock;
    address[] slots; address executor; address[] verifiers; bytes32 executorRoot; bytes32 otherRoot; uint32 bad;
    uint256 escrow; uint256 pricePerCwu; bytes32 receipt; uint8 disputes; }""")
DUTY = _struct("""Duty {
    uint8 role; uint8 kind; bytes32 task; bytes32 model; bytes32 promptHash; bytes32 outputHash; bytes32 seed;
    bytes32 traceKey;
    uint32 maxTokens; uint32 temperatureQ16; uint32 topK; uint8 slot; uint64 firstBlock; uint64 lastBlock;
    uint64 postedBlock; uint64 answeredBlock; address executor; bytes32 commitment; }""")
ROLE_EXECUTE, ROLE_AUDIT, ROLE_REVEAL, ROLE_CHALLENGE, ROLE_DEFEND, ROLE_TRAP = 1, 2, 3, 4, 5, 6
NO_SLOT = 255
"""Duty.role, and the role in Paid and TaskMissed (0 there: the poster). ROLE_CHALLENGE: a verdict that contradicts the
answer must become a challenge (Referee.challenge) in the duty's blocks, or it is void and costs a lost challenge.
ROLE_DEFEND: an accused whose root this operator can find is silent. ROLE_TRAP: somebody else opened the commitment of
this executor, which may say that it was a trap. NO_SLOT: others should act, anybody may."""

BATCH = _struct("Batch { string name; bytes32 model; uint8 kind; uint32 prompts; uint32 commissioned; }")

POST = _function(MARKET, """post(uint8 kind, bytes32 model, bytes tokens, uint32 maxTokens, uint32 temperatureQ16,
    uint32 topK, uint8 assurance, uint256 valueAtRisk, uint256 tipPerCwu, uint32 deadlineBlocks, uint32 callbackGas)
    payable returns (bytes32 task)""")
CANCEL = _function(MARKET, "cancel(bytes32 task)")
WORK = _function(MARKET, "work(bytes batch)", bare=True)
FILL_FUND = _function(MARKET, "fillFund() payable")
PROLOGUE = _function(MARKET, "prologue(bytes32 parentHash, bytes beaconProof)")
QUOTE = _function(MARKET, """quote(uint8 kind, bytes32 model, uint32 promptTokens, uint32 maxTokens,
    uint8 assurance, uint256 valueAtRisk, uint256 tipPerCwu, uint32 callbackGas)
    view returns (uint256 escrow, uint32 deadlineLeast, uint32 deadlineMost, uint8 auditors)""")
GET_TASK = _function(MARKET, "getTask(bytes32 task) view returns (Task info)")
OPEN_TASKS = _function(MARKET, "openTasks(address operator) view returns (Duty[] duties)")
FUND = _function(MARKET, "fund() view returns (uint256 commissioned, uint256 auditReserve)")
BATCHES = _function(MARKET, "batches() view returns (Batch[] commissioned)")
TASK_COUNT = _function(MARKET, "taskCount() view returns (uint64 posted)")

TASK_POSTED = _event(MARKET, """TaskPosted(bytes32 indexed task, address indexed poster, bytes32 indexed model,
    bool canary, uint8 kind, bytes tokens, uint32 maxTokens, uint32 temperatureQ16, uint32 topK, uint8 assurance,
    uint32 deadlineBlocks, uint256 tipPerCwu, uint256 escrow, uint256 pricePerCwu, uint256 valueAtRisk,
    uint32 callbackGas, uint8 auditors)""")
TASK_DEALT = _event(MARKET, """TaskDealt(bytes32 indexed task, address indexed executor, uint8 attempt, address[] slots,
    bytes32 seed, bytes32 traceKey, uint32 slotBlocks, uint64 lastBlock)""")
DEAL_DELAYED = _event(MARKET, "DealDelayed(bytes32 indexed task, uint64 againBlock, string reason)")
TASK_MISSED = _event(MARKET, """TaskMissed(bytes32 indexed task, address indexed operator, uint8 role, uint8 slot,
    bool counted, string code, string text)""")
TASK_ANSWERED = _event(MARKET, """TaskAnswered(bytes32 indexed task, address indexed executor, uint8 slot, bytes tokens,
    bytes32 outputHash, bytes32 commitment, uint32 queueMs, uint32 firstTokenMs, uint32 totalMs, bytes device)""")
AUDIT_DRAWN = _event(MARKET, """AuditDrawn(bytes32 indexed task, uint8 round, address[] verifiers, uint64 lastBlock)""")
VERDICT_COMMITTED = _event(MARKET, """VerdictCommitted(bytes32 indexed task, address indexed verifier,
    bytes32 commitment)""")
REVEAL_BEGAN = _event(MARKET, "RevealBegan(bytes32 indexed task, uint8 verdicts, uint64 lastBlock)")
REVEALED = _event(MARKET, """Revealed(bytes32 indexed task, address indexed sender, bytes32 root, uint32 bad,
    address[] opened)""")
TASK_AGREED = _event(MARKET, """TaskAgreed(bytes32 indexed task, address indexed executor, bytes32 root,
    address[] verifiers, uint64 settlesBlock)""")
TASK_UNVERIFIED = _event(MARKET, "TaskUnverified(bytes32 indexed task, string reason, uint64 settlesBlock)")
TASK_DISPUTED = _event(MARKET, """TaskDisputed(bytes32 indexed task, address indexed executor, address indexed verifier,
    bytes32 executorRoot, bytes32 verifierRoot, uint32 executorBad, uint32 verifierBad)""")
TASK_REFUTED = _event(MARKET, """TaskRefuted(bytes32 indexed task, address indexed executor, uint64 indexed dispute,
    uint8 attempt, uint8 reason, address next)""")
VERDICT_VOID = _event(MARKET, "VerdictVoid(bytes32 indexed task, address indexed verifier, string reason)")
TASK_SETTLED = _event(MARKET, """TaskSettled(bytes32 indexed task, address indexed executor, bytes32 indexed receipt,
    uint8 status, uint256 macs, uint256 fee, uint256 executorWei, uint256 burnedWei, uint256 refundedWei)""")
PAID = _event(MARKET, """Paid(bytes32 indexed task, address indexed operator, address indexed to, uint8 role,
    uint256 amount)""")
TASK_REFUNDED = _event(MARKET, """TaskRefunded(bytes32 indexed task, address indexed poster, uint256 amount,
    uint256 burnedWei, string reason)""")
WORK_REFUSED = _event(MARKET, """WorkRefused(bytes32 indexed task, address indexed operator, uint8 kind, string code,
    string text)""")
ITEM_FAILED = _event(MARKET, "ItemFailed(bytes32 indexed task, string step, string code, string text)")
TRAP_SPRUNG = _event(MARKET, """TrapSprung(bytes32 indexed task, address indexed executor, bytes32 salt,
    bytes32 trapRoot, address[] caught)""")
TRAP_PAID = _event(MARKET, """TrapPaid(bytes32 indexed task, address indexed operator, address indexed to, uint8 role,
    uint256 amount)""")
TASK_COMMISSIONED = _event(MARKET, """TaskCommissioned(bytes32 indexed task, uint16 batch, uint32 number,
    string name)""")
FUND_FILLED = _event(MARKET, "FundFilled(address indexed source, uint256 amount, uint256 fund)")

# -------------------------------------------------------------------------------- Ledger

TOTALS = _struct("""Totals {
    uint256 minted; uint256 burnedFees; uint256 burnedCallbacks; uint256 burnedExpiry; uint256 burnedSlashes;
    uint64 settled; uint64 unverified; uint64 canaries; uint64 refunded; uint256 macsPaid; uint256 macsCommissioned;
    uint256 macsCanary; uint64 tolerant; }""")
MEMBER = _struct("Member { address operator; uint256 power; uint256 target; uint256 credit; uint256 bond; }")

GET_CREDIT = _function(LEDGER, "getCredit(address operator) view returns (uint256 macs)")
GET_RECEIPT = _function(LEDGER, "getReceipt(bytes32 task) view returns (bytes32 receipt)")
RECEIPTS_ROOT = _function(LEDGER, "receiptsRoot(uint64 epoch) view returns (bytes32 root, uint32 count)")
"""Over the ids of the epoch's receipts in order (primitives.merkle); zeros before its turn or without any."""
GET_SET = _function(LEDGER, """getSet(uint64 epoch) view returns (bytes32 setHash, uint256 totalPower, bytes32 seedMix,
    Member[] members)""")
GET_TOTALS = _function(LEDGER, "getTotals() view returns (Totals totals)")
BASE_PRICE = _function(LEDGER, "basePrice() view returns (uint256 weiPerCwu)")
LOAD = _function(LEDGER, "load() view returns (uint256 backlogMacs, uint256 capacityMacsPerBlock)")
AUDIT_DELAY = _function(LEDGER, "auditDelay(uint64 epoch) view returns (uint32 blocks)")
RHO = _function(LEDGER, "rho() view returns (uint256 q64)")

RECEIPT = _event(LEDGER, """Receipt(bytes32 indexed receipt, bytes32 indexed task, address indexed executor,
    uint8 class, uint8 lane, uint8 kind, bytes32 model, bytes32 promptHash, bytes32 outputHash, bytes32 seed,
    uint32 promptTokens, uint32 outputTokens, uint256 prefillMacs, uint256 decodeMacs, uint256 prefillBytes,
    uint256 decodeBytes, address[] verifiers, uint8 verification, uint8 outcome, bytes32 root, uint256 pricePerCwu,
    uint256 fee, address payer, uint32 queueMs, uint32 firstTokenMs, uint32 totalMs, bytes device)""")
CLASS_PAID, CLASS_COMMISSIONED, CLASS_CANARY = 0, 1, 2
"""Receipt.class: who paid for the work."""
LANE_EXACT, LANE_TOLERANT = 0, 1
"""Receipt.lane: an integer program, whose bits are the same everywhere; a float model, checked by margins at most."""
VERIFIED_NONE, VERIFIED_AUDIT, VERIFIED_UNSAMPLED, VERIFIED_ACCEPTED = 0, 1, 2, 3
"""Receipt.verification: nobody checked; recomputed bit for bit by the verifiers named; not sampled (p < 1); of the
tolerant lane: the payer accepted it, which vouches for nothing."""
OUTCOME_UNVERIFIED, OUTCOME_AGREED, OUTCOME_UPHELD = 0, 1, 2
"""Receipt.outcome: nobody vouches; agreed; agreed after a contradiction that came to nothing."""
EPOCH_TURNED = _event(LEDGER, """EpochTurned(uint64 indexed epoch, uint64 indexed fixes, bytes32 setHash,
    uint32 members, uint256 totalPower, uint256 rho, uint32 auditDelay, bool frozen)""")
POWER_SET = _event(LEDGER, """PowerSet(uint64 indexed epoch, address indexed operator, uint256 power, uint256 target,
    uint256 credit, uint256 bond)""")
CREDITED = _event(LEDGER, """Credited(uint64 indexed epoch, address indexed operator, uint256 executedMacs,
    uint256 auditedMacs, uint256 credit)""")

# -------------------------------------------------------------------------------- Referee

DISPUTE = _struct("""Dispute {
    uint64 dispute; bytes32 task; uint8 attempt; uint8 state; uint8 turn; uint8 reason; address accused;
    address challenger; address operator; bool fromStake; uint256 bond; uint32 leaf; bytes32 leafHash;
    bytes32 operations; address author; uint256 authorBond; uint32 op; bytes32 node; uint8 level; uint32 index;
    uint32 count; uint64 filedBlock; uint64 begunBlock; uint64 lastBlock; uint32 defenderLeft; uint32 challengerLeft;
    bool defenderSpoke; bool challengerSpoke; }""")
DISPUTE_QUEUED, DISPUTE_TRACE, DISPUTE_LIST, DISPUTE_OP, DISPUTE_TILE, DISPUTE_OPEN, DISPUTE_ENDED = 1, 2, 3, 4, 5, 6, 7
"""Dispute.state: waits its turn; a page of the trace, of the list of ops, of an op's tree (of the last op: of the
leaf's pieces); the elements of a tile; an opening; over."""
TURN_DEFENDER, TURN_CHALLENGER = 1, 2
"""Dispute.turn: who moves next; 0 while it waits and when it is over."""
(
    ENDED_REFUTED, ENDED_UNDEFENDED, ENDED_WITHHELD, ENDED_HELD, ENDED_ABANDONED, ENDED_UNCHALLENGED, ENDED_MOOT,
    ENDED_LIST_REFUTED, ENDED_LIST_UNDEFENDED, ENDED_DIVERGED,
) = range(1, 11)  # fmt: skip
"""Why a dispute ended, and why somebody was slashed or lost a bond. The accused lost: its element does not follow; its
time ran out; it was contradicted and nobody revealed its root. The challenger lost: the element follows; its time ran
out; its verdict contradicted and became no challenge. Nobody lost: the answer was refuted, or its task gone, before.
A stand-in lost its bond, and the dispute went on: the element of its list does not follow; its time ran out. Nobody
knows: the two referees disagree."""
NO_LEAF = NO_OP = 2**32 - 1
"""challenge: the leaf is not known, the trace is shown first. choose: all ops of the list agree, it is the last one."""

CHALLENGE = _function(REFEREE, "challenge(bytes32 task, uint32 leaf) payable returns (uint64 dispute)")
SHOW = _function(REFEREE, "show(uint64 dispute, bytes data) payable")
CHOOSE = _function(REFEREE, "choose(uint64 dispute, uint32 index, bytes32 child, bytes32[] path)")
OPEN = _function(REFEREE, "open(uint64 dispute, uint64 element, bytes opening)")
GET_DISPUTE = _function(REFEREE, "getDispute(uint64 dispute) view returns (Dispute info)")
DISPUTES_OF = _function(REFEREE, "disputesOf(bytes32 task) view returns (uint64[] disputes)")
OPEN_DISPUTES = _function(REFEREE, "openDisputes() view returns (uint64[] disputes)")
BOND_FOR = _function(REFEREE, """bondFor(bytes32 task, address challenger) view
    returns (uint256 amount, bool fromStake)""")
STAND_IN_BOND = _function(REFEREE, """standInBond(uint64 dispute, address author) view
    returns (uint256 amount, bool fromStake)""")

HELD_WEI = _function(REFEREE, "heldWei() view returns (uint256 amount)")
"""Slashes of accused about whom the two referees disagreed: kept until governance rules."""

CHALLENGED = _event(REFEREE, """Challenged(uint64 indexed dispute, bytes32 indexed task, address indexed accused,
    address challenger, address operator, uint8 attempt, uint32 leaf, uint256 bond)""")
DISPUTE_BEGAN = _event(REFEREE, """DisputeBegan(uint64 indexed dispute, bytes32 indexed task, uint8 state,
    uint64 lastBlock)""")
SHOWN = _event(REFEREE, """Shown(uint64 indexed dispute, bytes32 indexed task, address indexed sender, uint8 state,
    uint8 level, uint32 index, bytes data, uint64 lastBlock)""")
CHOSEN = _event(REFEREE, """Chosen(uint64 indexed dispute, bytes32 indexed task, uint8 state, uint32 chosen,
    bytes32 child, uint8 nextState, uint8 turn, uint64 lastBlock)""")
JUDGED = _event(REFEREE, """Judged(uint64 indexed dispute, bytes32 indexed task, uint32 leaf, string op, string rule,
    uint64 element, bool holds)""")
REFEREES_DIVERGED = _event(REFEREE, """RefereesDiverged(uint64 indexed dispute, bytes32 indexed task,
    bytes32 indexed model, address accused, uint32 leaf, string op, string rule, uint64 element, bool nativeHolds,
    string second, uint256 heldWei)""")
LIST_REFUTED = _event(REFEREE, """ListRefuted(uint64 indexed dispute, bytes32 indexed task, address indexed author,
    uint8 reason, uint256 bond, uint64 lastBlock)""")
DISPUTE_ENDED_LOG = _event(REFEREE, """DisputeEnded(uint64 indexed dispute, bytes32 indexed task,
    address indexed winner, address loser, uint8 reason, uint256 lostWei, uint256 costsWei, uint256 askerWei,
    uint256 bountyWei, uint256 burnedWei)""")

# -------------------------------------------------------------------------------- Beacon

MIX_AT = _function(BEACON, "mixAt(uint64 height) view returns (bytes32 mix)")
LATEST_MIX = _function(BEACON, "latest() view returns (uint64 height, bytes32 mix)")

# -------------------------------------------------------------------------------- Courier

PENDING = _function(COURIER, "pending() view returns (uint32 reserved, uint32 waiting, uint256 prepaidWei)")
GET_CALLBACK = _function(COURIER, """getCallback(bytes32 task) view returns (address target, uint8 status, uint32 gas,
    uint256 prepaidWei, uint64 queuedBlock)""")
CALLED_BACK = _event(COURIER, """CalledBack(bytes32 indexed task, address indexed target, uint8 status, bool succeeded,
    uint256 gasUsed, uint256 burnedWei, uint256 refundedWei)""")
CALLBACK = Function(
    COURIER, "onLaboraTask",
    _params("bytes32 task, uint8 status, bytes32 outputHash, bytes32 receipt"), (), "nonpayable",
)  # fmt: skip
"""The method of its poster that the Courier calls, once, at a task's end: 7 settled, 8 refunded, 10 unverified, 11
refuted. (No method of the Courier's own.)"""

# -------------------------------------------------------------------------------- Tolerant

TOLERANT_OFFER = _struct("""TolerantOffer {
    address operator; string model; uint256 weiPerPromptByte; uint256 weiPerToken; uint32 promptBytesMax;
    uint32 tokensMax; uint32 deadlineBlocks; uint64 offeredBlock; }""")
TOLERANT_TASK = _struct("""TolerantTask {
    bytes32 task; uint8 status; address asker; address executor; bytes32 model; bytes32 promptHash;
    bytes32 outputHash; bytes32 seed; uint32 promptBytes; uint32 maxTokens; uint32 tokens; uint256 weiPerPromptByte;
    uint256 weiPerToken; uint256 escrow; uint64 askedBlock; uint64 lastBlock; }""")
STATE_ASKED, STATE_ANSWERED, STATE_ACCEPTED = 1, 2, 3
"""TolerantTask.status: the executor may answer through lastBlock; the asker may accept or refuse through lastBlock, and
pays if it does neither; it has accepted, and the next prologue pays."""
TOLERANT_RECORD = _struct("""TolerantRecord {
    uint32 accepted; uint32 unopposed; uint32 refused; uint32 unanswered; uint256 paidWei; }""")
"""How tasks of the tolerant lane ended: paid because the asker accepted, paid because it said nothing, not paid because
it refused, not answered in time; and what was paid in all."""

MAKE_OFFER = _function(TOLERANT, """offer(string model, uint256 weiPerPromptByte, uint256 weiPerToken,
    uint32 promptBytesMax, uint32 tokensMax, uint32 deadlineBlocks)""")
WITHDRAW_OFFER = _function(TOLERANT, "withdrawOffer()")
ASK = _function(TOLERANT, """ask(address executor, bytes32 model, string prompt, uint32 maxTokens,
    uint32 temperatureQ16, uint8 topK, bytes32 seed) payable returns (bytes32 task)""")
ANSWER = _function(TOLERANT, "answer(bytes32 task, bytes tokens, uint32 queueMs, uint32 totalMs)")
ACCEPT = _function(TOLERANT, "accept(bytes32 task)")
REFUSE = _function(TOLERANT, "refuse(bytes32 task, string reason)")
GET_OFFER = _function(TOLERANT, "getOffer(address operator) view returns (TolerantOffer offered)")
OFFERS = _function(TOLERANT, "offers() view returns (TolerantOffer[] offered)")
GET_TOLERANT_TASK = _function(TOLERANT, "getTask(bytes32 task) view returns (TolerantTask info)")
OPEN_TOLERANT_TASKS = _function(TOLERANT, "openTasks(address operator) view returns (TolerantTask[] tasks)")
RECORDS_OF = _function(TOLERANT, """recordsOf(address account) view
    returns (TolerantRecord asExecutor, TolerantRecord asAsker)""")

OFFERED = _event(TOLERANT, """Offered(address indexed operator, string model, uint256 weiPerPromptByte,
    uint256 weiPerToken, uint32 promptBytesMax, uint32 tokensMax, uint32 deadlineBlocks)""")
OFFER_WITHDRAWN = _event(TOLERANT, "OfferWithdrawn(address indexed operator)")
TOLERANT_ASKED = _event(TOLERANT, """TolerantAsked(bytes32 indexed task, address indexed asker,
    address indexed executor, string model, string prompt, uint32 maxTokens, uint32 temperatureQ16, uint8 topK,
    bytes32 seed, uint256 weiPerPromptByte, uint256 weiPerToken, uint256 escrow, uint64 lastBlock)""")
TOLERANT_ANSWERED = _event(TOLERANT, """TolerantAnswered(bytes32 indexed task, address indexed executor,
    bytes tokens, uint256 fee, uint32 queueMs, uint32 totalMs, uint64 lastBlock)""")
TOLERANT_ACCEPTED = _event(TOLERANT, "TolerantAccepted(bytes32 indexed task, address indexed asker)")
TOLERANT_PAID = _event(TOLERANT, """TolerantPaid(bytes32 indexed task, address indexed executor,
    bytes32 indexed receipt, bool accepted, address to, uint256 fee, uint256 executorWei, uint256 burnedWei,
    uint256 refundedWei)""")
TOLERANT_REFUSED = _event(TOLERANT, """TolerantRefused(bytes32 indexed task, address indexed executor,
    address indexed asker, string reason, uint256 burnedWei, uint256 refundedWei)""")
TOLERANT_UNANSWERED = _event(TOLERANT, """TolerantUnanswered(bytes32 indexed task, address indexed executor,
    address indexed asker, uint256 refundedWei)""")
