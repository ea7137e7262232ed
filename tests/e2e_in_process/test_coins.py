"""Coins over everything that moves them, on real blocks: tips, values at risk, callbacks, delegation, cancellations,
silence and the tolerant lane. After every block balances = genesis + minted - burned - base fees, the supply has not
risen, and every system account holds what it owes (tests.coins).

Shows the account of a run: `python -m pytest tests/e2e_in_process/test_coins.py -s`
"""

import os
import random
from dataclasses import fields

import pytest
from chain_in_process import key_of
from test_callbacks import BURN, HOSTILE, HUGE_RETURN, LOGS, NOTHING, REVERT, SECOND, Engines, Place

from primitives.address import MARKET, STAKING, TOLERANT
from primitives.genesis import GenesisAccount
from primitives.hashing import keccak
from primitives.keys import address_of
from primitives.merkle import pack_tokens
from primitives.params import COIN
from primitives.task import encode_texts
from primitives.transaction import Transaction
from vm.system import abi, tolerant, views
from vm.system.tolerant_state import Ask

pytestmark = pytest.mark.slow

BLOCKS = 120
FLOATS = "a float model"
SILENCE = range(60, 85)
"""Blocks in which no validator works: what is asked then expires."""


class Mixture:
    """Everything that costs somebody something, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.head_key = key_of("validator 0 operator")
        head = GenesisAccount(address_of(self.head_key), COIN, 0, b"")
        self.place = Place(Engines.make(), [head], acceptance_window=20)
        self.chain = self.place.chain
        self.head = self.chain.operators[0]
        self.sent: list[Transaction] = []

    def run(self) -> None:
        declared = abi.DECLARE_COMMISSION.encode_call(500)
        offer = abi.MAKE_OFFER.encode_call(FLOATS, 10**9, 10**13, 100, 64, 8)
        made = self.chain.transaction(self.head.hot_key, 0, 200_000, 0, offer, TOLERANT)
        self.block([self.chain.transaction(self.head_key, 0, 200_000, 0, declared, STAKING), made])
        for number in range(BLOCKS):
            acts = [self.act() for _ in range(self.rng.randrange(3))]
            asked = [self.ask()] if number == SILENCE.start else []  # nobody answers it
            self.block([*acts, *asked], number in SILENCE)
        self.block([self.poster(STAKING, abi.CLAIM.encode_call(self.head.operator), 0)])

    def block(self, transactions: list[Transaction], silent: bool = False) -> None:
        self.sent = []
        work = [] if silent else self.place.fleet.transactions()
        self.chain.block([*transactions, *work, *([] if silent else self.answers(work))])

    def answers(self, work: list[Transaction]) -> list[Transaction]:
        """Of the head, in the tolerant lane, to about every second task that waits."""
        chain, hot = self.chain, self.head.hot
        nonce = chain.reader.nonce(hot) + sum(transaction.sender == hot for transaction in work)
        sent: list[Transaction] = []
        for task, ask in self.asks():
            if ask.status == abi.STATE_ASKED and self.rng.random() < 0.5:
                tokens = encode_texts(["word"] * self.rng.randrange(ask.max_tokens + 1))
                data = abi.ANSWER.encode_call(task, tokens, 0, 0)
                sent.append(chain.transaction(self.head.hot_key, nonce + len(sent), 200_000, 0, data, TOLERANT))
        return sent

    def asks(self) -> list[tuple[bytes, Ask]]:
        """Open tasks of the head in the tolerant lane that the next block takes."""
        ctx = views.ViewContext(self.chain.reader, self.chain.params, self.chain.height + 1)
        found = tolerant.open_tasks(ctx, self.head.operator)
        return [(task, ask) for task, ask in found if ask.last > self.chain.height]

    def act(self) -> Transaction:
        match self.rng.randrange(11):
            case 0 | 1 | 2:
                tip = self.rng.choice((0, 10**6, 10**12))
                risk = self.rng.choice((0, 0, COIN // 4))
                data = abi.POST.encode_call(
                    0, self.place.model, pack_tokens((3, 1, 4)), self.rng.randrange(1, 9), 65_536, 0,
                    self.rng.randrange(4), risk, tip, 12, self.rng.choice((0, 60_000)),
                )  # fmt: skip
                return self.poster(MARKET, data, COIN // 100)
            case 3:
                deed = self.rng.choice((NOTHING, BURN, REVERT, HUGE_RETURN, LOGS))
                to = self.rng.choice((HOSTILE, SECOND))
                return self.place.ask(deed, gas=self.rng.choice((40_000, 150_000)), to=to, after=self.nonce())
            case 4:
                return self.poster(STAKING, abi.DELEGATE.encode_call(self.head.operator), 2 * COIN)
            case 5:
                return self.poster(STAKING, abi.UNDELEGATE.encode_call(self.head.operator, COIN), 0)
            case 6:
                return self.poster(MARKET, abi.FILL_FUND.encode_call(), self.rng.randrange(1, COIN))
            case 7 | 8:
                return self.ask()
            case 9:
                answered = [task for task, ask in self.asks() if ask.status == abi.STATE_ANSWERED] or [bytes(32)]
                task = self.rng.choice(answered)
                refusal = abi.REFUSE.encode_call(task, "no")
                return self.poster(TOLERANT, self.rng.choice((abi.ACCEPT.encode_call(task), refusal)), 0)
            case _:
                tasks = [event["task"] for _, event in self.chain.events(abi.TASK_POSTED)]
                task = tasks[-1] if tasks else bytes(32)
                return self.poster(MARKET, abi.CANCEL.encode_call(task), 0)

    def ask(self) -> Transaction:
        """The head, in the tolerant lane."""
        prompt, most = "x" * self.rng.randrange(1, 100), self.rng.randrange(1, 65)
        asked = self.head.operator, keccak(FLOATS.encode()), prompt, most, 0, 20, bytes(32)
        return self.poster(TOLERANT, abi.ASK.encode_call(*asked), COIN // 100)

    def poster(self, to: bytes, data: bytes, value: int) -> Transaction:
        nonce = self.chain.reader.nonce(self.chain.poster) + self.nonce()
        return self.chain.transaction(self.chain.poster_key, nonce, 1_700_000, value, data, to)

    def nonce(self) -> int:
        """Of the poster's next transaction in this block, counted from its first."""
        self.sent.append(None)  # type: ignore[arg-type]
        return len(self.sent) - 1


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    seed = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed} (repeat with LABORA_SEED={seed})")
    mixture = Mixture(seed)
    mixture.run()
    return mixture


def test_every_wei_has_a_place_after_every_block_and_the_supply_only_falls(mixture, capsys, seeds):
    seeds.append(mixture.seed)
    chain = mixture.chain
    assert chain.height == BLOCKS + 2
    totals = views.totals(chain.reader)
    with capsys.disabled():
        print(f"\n{'at the beginning':<36}{chain.coins.start:>36} wei")
        for field in fields(totals)[:5]:
            print(f"{field.name:<36}{getattr(totals, field.name):>36} wei")
        print(f"{'base fees burned':<36}{chain.coins.base_fees:>36} wei")
        print(f"{'in the end':<36}{chain.coins.supply:>36} wei")
    assert chain.coins.supply < chain.coins.start


def test_the_run_moved_coins_in_all_these_ways(mixture):
    chain, totals = mixture.chain, views.totals(mixture.chain.reader)
    assert totals.minted and totals.burned_fees and totals.burned_callbacks and totals.burned_expiry
    seen = {
        event.name
        for event in (
            abi.CALLED_BACK, abi.DELEGATED, abi.UNDELEGATED, abi.CLAIMED, abi.FUND_FILLED, abi.TASK_REFUNDED,
            abi.TOLERANT_PAID, abi.TOLERANT_UNANSWERED,
        )
        if next(chain.events(event), None)
    }  # fmt: skip
    assert len(seen) == 8, seen
    assert totals.tolerant == len(list(chain.events(abi.TOLERANT_PAID)))
    assert not list(chain.events(abi.ITEM_FAILED))
