"""Escrow and its split: every wei has a place."""

import random
from dataclasses import replace

from consensus.work.fees import Terms, WorkGas, escrow_of, expiry_charge, settle
from primitives.params import CWU, ChainParams
from primitives.task import Kind, ModelCost

PARAMS = ChainParams()
COST = ModelCost(a=CWU, b=0, c=0, audit_weight_num=1, audit_weight_den=4)
GAS = WorkGas(submit=30_000, submit_token=70, submit_element=160, verdict=25_000, reveal=28_000, seat_seen=0)
TERMS = Terms(COST, Kind.GENERATE, prompt=5, longest=16, price=1_000, base_fee=7, auditors=2, tip=0)


def test_an_escrow_is_execution_audits_work_and_tip():
    escrow = escrow_of(replace(TERMS, tip=9), GAS)  # wei a CWU
    assert escrow.execution == 20 * 1_000  # 5 + 16 - 1 positions at 1 CWU
    assert escrow.audits == 2 * 5 * 1_000
    assert escrow.work == (30_000 + 16 * 70 + 2 * 25_000 + 28_000) * 2 * 7
    assert escrow.total == escrow.execution + escrow.audits + escrow.work + 20 * 9


def test_the_split_of_an_agreed_task():
    escrow = escrow_of(TERMS, GAS).total
    split = settle(TERMS, GAS, PARAMS, escrow, length=6, verifiers=2, revealed=True)
    assert split.fee == 10_000
    assert split.executor == 7_500
    assert split.burned == 2_000
    assert split.minted == 1_000
    assert split.audit == 2_500 + 250
    assert (split.verdict_work, split.reveal_work) == (25_000 * 14, 28_000 * 14)
    assert split.submission_work == (30_000 + 6 * 70) * 14


def test_a_tip_goes_to_the_executor_whole_and_on_the_work_really_done():
    terms = replace(TERMS, tip=9)
    split = settle(terms, GAS, PARAMS, escrow_of(terms, GAS).total, length=6, verifiers=2, revealed=True)
    assert split.executor == 7_500 + 10 * 9
    plain = settle(TERMS, GAS, PARAMS, escrow_of(TERMS, GAS).total, length=6, verifiers=2, revealed=True)
    assert (split.burned, split.minted, split.audit) == (plain.burned, plain.minted, plain.audit)
    assert split.refund == plain.refund + 10 * 9  # the tip on what was not done


def test_a_vector_pays_its_bytes_at_the_floor_of_calldata():
    terms = replace(TERMS, kind=Kind.EMBED, longest=384)
    escrow = escrow_of(terms, GAS)
    assert escrow.execution == 5 * 1_000
    assert escrow.work == (30_000 + 384 * 160 + 2 * 25_000 + 28_000) * 2 * 7
    split = settle(terms, GAS, PARAMS, escrow.total, length=384, verifiers=2, revealed=True)
    assert (split.fee, split.refund) == (5_000, 0)
    assert split.submission_work == (30_000 + 384 * 160) * 14


def test_without_a_verifier_the_pool_is_burned_and_nothing_is_minted():
    split = settle(TERMS, GAS, PARAMS, escrow_of(TERMS, GAS).total, length=6, verifiers=0, revealed=False)
    assert (split.executor, split.burned, split.minted) == (7_500, 2_500, 0)
    assert (split.audit, split.reveal_work) == (0, 0)


def test_what_a_division_leaves_is_burned():
    terms = replace(TERMS, price=20, auditors=3)
    split = settle(terms, GAS, PARAMS, escrow_of(terms, GAS).total, length=4, verifiers=3, revealed=True)
    assert split.fee == 160
    assert split.audit == 40 + 8 // 3
    assert split.burned == 32 + 8 % 3
    assert split.minted == 16


def test_every_wei_of_a_random_task_has_a_place():
    seed = 7
    rng = random.Random(seed)
    for _ in range(2_000):
        cost = ModelCost(rng.randrange(1, 2**40), rng.randrange(2**20), rng.randrange(2**30), 1, rng.randrange(1, 9))
        terms = Terms(
            cost, Kind(rng.randrange(3)), rng.randrange(1, 400), rng.randrange(1, 200), rng.randrange(10**13),
            rng.randrange(10**10), rng.randrange(3), rng.randrange(1000),
        )  # fmt: skip
        escrow = escrow_of(terms, GAS).total
        verifiers = rng.randint(0, terms.auditors)
        length = terms.longest if terms.kind.is_vector else rng.randint(1, terms.longest)
        split = settle(terms, GAS, PARAMS, escrow, length, verifiers, rng.random() < 0.5)
        work = split.submission_work + verifiers * split.verdict_work + split.reveal_work
        assert split.executor + verifiers * split.audit + work + split.burned + split.refund == escrow, seed
        assert min(split.executor, split.refund, split.burned) >= 0, seed
        assert split.minted * 2 <= split.burned, seed


def test_an_expired_task_costs_one_percent():
    assert [expiry_charge(wei, PARAMS) for wei in (0, 99, 100, 12_345)] == [0, 0, 1, 123]
