"""Protocol parameters: part of genesis, hashed into every header's sidecar, the same on every node of a chain.

Operator choices live in node.config; bounds that are local live at the top of the file that needs them. The values and
their reasons stand in docs/formats.md. Times in milliseconds or blocks, gas in gas, amounts in wei, all integers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from primitives.hashing import keccak

COIN = 10**18
STAKE_UNIT = 10**15
"""Bonds and powers are counted in units of this many wei."""
CWU = 10**9
"""Multiply-adds in one canonical work unit."""
FIRST_FORM_VALIDATORS_MAX = 10
"""A larger set's consecutive proposers could choose who is drawn: where anything is at stake it needs a threshold
beacon."""
DISPUTE_MESSAGE_GAS = 700_000
"""A transaction of 16 KiB, none of it zero, costs 676,360 at EIP-7623's floor."""
DISPUTE_MOVES_MAX = 11
"""Of one side: ten pages (four of a trace of 2^27 leaves, two of a list, four of an operation of 2^33 elements) and a
tile, or their choices and an opening."""
DISPUTE_DEFENCE_GAS = 3_800_000
"""Ten pages of 8 KiB and a tile of 2 KiB."""
DISPUTE_CHALLENGE_GAS = 1_800_000
"""The challenge, ten choices, an opening of 16 KiB."""
DISPUTE_WORST_GAS = DISPUTE_DEFENCE_GAS + DISPUTE_CHALLENGE_GAS
RESULT_BYTES_CAP = 32 * 1024
"""An answer fits the batch in which a node sends it (48 KiB), and the builder's 64 KiB of batches a block."""


class InvalidParams(ValueError):
    """Parameters that break one of their relations; the text names it."""


@dataclass(frozen=True)
class ChainParams:
    """Defaults are the devnet's."""

    chain_id: int = 31_337
    block_interval_ms: int = 1_000
    epoch_blocks: int = 32
    bootstrap_epochs: int = 2
    timeout_propose_ms: int = 1_500
    timeout_propose_delta_ms: int = 500
    timeout_vote_ms: int = 500
    timeout_vote_delta_ms: int = 250
    timeout_cap_ms: int = 60_000
    rebroadcast_ms: int = 3_000
    timely_precision_ms: int = 500
    timely_delay_ms: int = 2_000
    build_limit_ms: int = 300
    block_gas_limit: int = 6_000_000
    base_fee_initial: int = 10**9
    base_fee_min: int = 10**9
    block_bytes_max: int = 900 * 1024
    prompt_bytes_max: int = 32 * 1024
    result_bytes_max: int = 32 * 1024
    """Of the longest answer that a task may have: what a work batch and a transaction hold with room to spare."""
    validators_max: int = 128
    prologue_items_max: int = 64
    """Deals, settlements and expiries a block, each."""
    verdict_window: int = 8
    reveal_window: int = 8
    redraws_max: int = 3
    audit_weight_num: int = 1
    audit_weight_den: int = 4
    maturity_blocks: int = 4
    watch_blocks: int = 4
    silence_blocks: int = 60
    dispute_clock_blocks: int = 30
    deadline_default: int = 30
    acceptance_window: int = 60
    """Blocks in which the asker of the tolerant lane may refuse an answer; then its silence pays."""
    auditors: int = 2
    """k: verifiers drawn for a task."""
    sample_num: int = 1
    sample_den: int = 1
    """p = sample_num / sample_den: the share of tasks that is audited."""
    credit_keep_num: int = 9
    credit_keep_den: int = 10
    """lambda."""
    growth_num: int = 5
    growth_den: int = 4
    growth_stake_div: int = 64
    rho_factor_num: int = 1
    rho_factor_den: int = 2
    rho_rise_den: int = 20
    power_floor_num: int = 9
    power_floor_den: int = 10
    fee_burn_percent: int = 20
    fee_pool_percent: int = 5
    base_price_start: int = 10**12
    base_price_floor: int = 10**9
    expiry_charge_percent: int = 1
    slash_first_fees: int = 64
    slash_bond_div: int = 1_000
    slash_repeat_percent: int = 10
    slash_window_epochs: int = 64
    slash_bounty_percent: int = 10
    fund_spend_div: int = 64
    exposure_div: int = 64
    bond_min: int = 1_000 * COIN
    unbonding_blocks: int = 512
    evidence_age_blocks: int = 256
    receipts_kept_epochs: int = 64
    """Whole epochs for which a finished task's end and receipt id stay in state; then the root of its epoch stands for
    them."""
    canaries_per_validator: int = 4
    canary_tokens: int = 16
    callback_gas_max: int = 200_000
    power_from_credit: int = 1
    """1: voting power follows verified work; 0: bonds alone vote (credits are computed and shown either way)."""
    devnet: int = 1
    """1: capacity floor = declared rate, and credit needs min(4, set size) serving operators."""

    @cached_property
    def canonical_json(self) -> bytes:
        """Sorted keys, no spaces, ASCII, integers only."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode("ascii")

    @cached_property
    def hash(self) -> bytes:
        """keccak of the canonical JSON; stands in every sidecar."""
        return keccak(self.canonical_json)

    @property
    def transaction_gas_max(self) -> int:
        """A transaction's gas limit is at most 7/8 of the block's: the rest is the prologue's."""
        return self.block_gas_limit * 7 // 8

    @property
    def prologue_gas(self) -> int:
        """Gas of the system transaction."""
        return self.block_gas_limit // 8

    @property
    def dispute_lane_gas(self) -> int:
        """Gas of a block that is kept for dispute messages."""
        return self.block_gas_limit // 8

    def epoch(self, height: int) -> int:
        """Epoch of a height of at least 1; the genesis block counts to epoch 0."""
        return max(0, height - 1) // self.epoch_blocks

    def first_height(self, epoch: int) -> int:
        """First block of an epoch."""
        return epoch * self.epoch_blocks + 1

    def is_epoch_end(self, height: int) -> bool:
        """Whether the epoch turns in this block's prologue."""
        return height > 0 and height % self.epoch_blocks == 0

    def timeout_ms(self, step: str, round_: int) -> int:
        """Consensus timeout of "propose", "prevote" or "precommit" in a round."""
        base, delta = self.timeout_vote_ms, self.timeout_vote_delta_ms
        if step == "propose":
            base, delta = self.timeout_propose_ms, self.timeout_propose_delta_ms
        return min(base + delta * round_, self.timeout_cap_ms)

    def check(self) -> "ChainParams":
        """Itself. Raises InvalidParams naming the relation that does not hold."""
        longest_dispute = 2 * self.silence_blocks + 2 * self.dispute_clock_blocks
        relations = {
            "verdict_window and reveal_window >= 8": self.verdict_window >= 8 and self.reveal_window >= 8,
            "maturity_blocks >= watch_blocks >= 4": self.maturity_blocks >= self.watch_blocks >= 4,
            "deadline_default >= 12": self.deadline_default >= 12,
            "acceptance_window >= 8": self.acceptance_window >= 8,
            "unbonding_blocks > maturity + 2 silences + 2 dispute clocks + evidence_age_blocks": (
                self.unbonding_blocks > self.maturity_blocks + longest_dispute + self.evidence_age_blocks
            ),
            "block_gas_limit >= 8 dispute messages": self.block_gas_limit >= 8 * DISPUTE_MESSAGE_GAS,
            "the dispute lane carries a whole dispute within one clock": (
                self.dispute_lane_gas * self.dispute_clock_blocks >= DISPUTE_WORST_GAS
            ),
            "dispute_clock_blocks >= 2 blocks a move": self.dispute_clock_blocks >= 2 * DISPUTE_MOVES_MAX,
            "silence_blocks >= 8": self.silence_blocks >= 8,
            "p = 1 while the beacon is of the first form": self.sample_num == self.sample_den,
            "epoch_blocks >= 4 * canaries_per_validator": self.epoch_blocks >= 4 * self.canaries_per_validator,
            "redraws_max <= 7": self.redraws_max <= 7,
            "epoch_blocks * prologue_items_max <= 2**19, of the million receipts that an epoch's tree holds": (
                self.epoch_blocks * self.prologue_items_max <= 2**19
            ),
            "receipts_kept_epochs >= 1": self.receipts_kept_epochs >= 1,
            "1 <= validators_max <= 128": 1 <= self.validators_max <= 128,
            "block_bytes_max <= 900 KiB": 0 < self.block_bytes_max <= 900 * 1024,
            "result_bytes_max <= 32 KiB": 0 < self.result_bytes_max <= RESULT_BYTES_CAP,
            "base_fee_initial >= base_fee_min > 0": self.base_fee_initial >= self.base_fee_min > 0,
            "base_price_start >= base_price_floor > 0": self.base_price_start >= self.base_price_floor > 0,
            "power_from_credit on a public chain of at most 10 validators while the beacon is of the first form": (
                not self.power_from_credit or self.devnet == 1 or self.validators_max <= FIRST_FORM_VALIDATORS_MAX
            ),
            "block_interval_ms >= 1 and epoch_blocks >= 1": self.block_interval_ms >= 1 and self.epoch_blocks >= 1,
            "0 < chain_id < 2**63": 0 < self.chain_id < 2**63,
        }
        for relation, holds in relations.items():
            if not holds:
                raise InvalidParams(f"parameters break the relation: {relation}")
        return self


def params_from_json(values: Mapping[str, object]) -> ChainParams:
    """Devnet defaults overridden by `values`. Raises InvalidParams (unknown name, non-integer, broken relation)."""
    known = {field.name for field in fields(ChainParams)}
    overrides: dict[str, int] = {}
    for name, value in values.items():
        if name not in known:
            raise InvalidParams(f"unknown parameter {name!r}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidParams(f"parameter {name} must be a non-negative integer, not {value!r}")
        overrides[name] = value
    return replace(ChainParams(), **overrides).check()
