"""Money of a task: what is escrowed, and who gets it in the end (docs/formats.md, Units and money). Wei, integers.

Pure: moves nothing. Every split adds up to the escrow, which is asserted here and tested over random tasks.
"""

from dataclasses import dataclass

from primitives.params import ChainParams
from primitives.task import Kind, ModelCost, price_of

GAS_PRICE_FACTOR = 2
"""Work messages and callbacks are paid at twice the base fee of the post's block."""


@dataclass(frozen=True)
class WorkGas:
    """Fixed gas of the work messages, from the system's own table (vm.system.gas)."""

    submit: int
    submit_token: int
    submit_element: int
    """Instead of submit_token: an element of a vector, whose bytes are seldom zero."""
    verdict: int
    reveal: int
    seat_seen: int
    """On top of both, for each verifier of the task."""

    def submission(self, kind: Kind, length: int) -> int:
        """Gas paid for an answer of that many tokens or elements."""
        return self.submit + (self.submit_element if kind.is_vector else self.submit_token) * length

    def saying(self, message: int, auditors: int) -> int:
        """Gas paid for a verdict or a reveal in a task that so many check."""
        return message + self.seat_seen * auditors


@dataclass(frozen=True)
class Terms:
    """What a task was posted under."""

    cost: ModelCost
    kind: Kind
    prompt: int
    """Tokens."""
    longest: int
    """Tokens or elements that the answer may have."""
    price: int
    """Wei a CWU at the post."""
    base_fee: int
    """Wei a gas at the post."""
    auditors: int
    """Verifiers that the escrow pays for."""
    tip: int
    """Wei a CWU, all of it to the executor."""
    callback_gas: int = 0


@dataclass(frozen=True)
class Escrow:
    """Parts of what the poster locks."""

    execution: int
    audits: int
    work: int
    tip: int
    callback: int
    """Prepaid gas of the callback, which the task hands on at its end, however that is."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.execution + self.audits + self.work + self.tip + self.callback


@dataclass(frozen=True)
class Settlement:
    """Where the escrow of a settled task goes. `audit` and `verdict_work` are per verifier that agreed."""

    executor: int
    audit: int
    submission_work: int
    verdict_work: int
    reveal_work: int
    burned: int
    refund: int
    minted: int
    """Emission into the commissioned fund, half of the fee's burned part (not of what remainders burn)."""
    fee: int
    """The execution part that was charged, before its split."""


def escrow_of(terms: Terms, gas: WorkGas) -> Escrow:
    """What a post must lock."""
    per_gas = GAS_PRICE_FACTOR * terms.base_fee
    verdict, reveal = gas.saying(gas.verdict, terms.auditors), gas.saying(gas.reveal, terms.auditors)
    work = gas.submission(terms.kind, terms.longest) + terms.auditors * verdict + reveal
    return Escrow(
        execution=price_of(terms.cost.execution(terms.kind, terms.prompt, terms.longest), terms.price),
        audits=terms.auditors * price_of(terms.cost.audit(terms.kind, terms.prompt, terms.longest), terms.price),
        work=work * per_gas,
        tip=price_of(terms.cost.execution(terms.kind, terms.prompt, terms.longest), terms.tip),
        callback=callback_part(terms.callback_gas, terms.base_fee),
    )


def callback_part(gas: int, base_fee: int) -> int:
    """What is prepaid for a callback: its gas at twice the base fee of the post's block."""
    return gas * GAS_PRICE_FACTOR * base_fee


def settle(
    terms: Terms, gas: WorkGas, params: ChainParams, escrow: int, length: int, verifiers: int, revealed: bool
) -> Settlement:
    """The split of `escrow`, less the callback's part, for an answer of `length` tokens or elements that `verifiers` of
    them agreed with.

    X = ceil(exec(actual)): burned X * 20 // 100, pool X * 5 // 100, the rest and the tip on that work to the executor;
    each verifier that agreed gets its audit's cost and an equal part of the pool; nobody: the pool is burned, as
    remainders are. Messages are paid their fixed gas: the answer, those verdicts, and a reveal if there was one. What
    is unused goes back to the poster. p = 1 (asserted by the parameters).
    """
    macs = terms.cost.execution(terms.kind, terms.prompt, length)
    fee = price_of(macs, terms.price)
    fee_burn = fee * params.fee_burn_percent // 100
    pool = fee * params.fee_pool_percent // 100
    share = pool // verifiers if verifiers else 0
    audit = price_of(terms.cost.audit(terms.kind, terms.prompt, length), terms.price) + share if verifiers else 0
    per_gas = GAS_PRICE_FACTOR * terms.base_fee
    submission_work = gas.submission(terms.kind, length) * per_gas
    verdict_work = gas.saying(gas.verdict, terms.auditors) * per_gas
    reveal_work = gas.saying(gas.reveal, terms.auditors) * per_gas if revealed else 0
    executor = fee - fee_burn - pool + price_of(macs, terms.tip)
    burned = fee_burn + pool - share * verifiers
    paid = executor + verifiers * (audit + verdict_work) + submission_work + reveal_work + burned
    refund = escrow - paid
    assert refund >= 0, (escrow, paid)
    minted = fee_burn // 2 if verifiers else 0
    return Settlement(executor, audit, submission_work, verdict_work, reveal_work, burned, refund, minted, fee)


def expiry_charge(escrow: int, params: ChainParams) -> int:
    """What is burned of the escrow of a task that nobody answered in time."""
    return escrow * params.expiry_charge_percent // 100
