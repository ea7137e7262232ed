"""The genesis specification: the devnet's template completes to the same chain everywhere, and nonsense is refused."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from genesis import spec as genesis_spec
from genesis.build import build_genesis, first_set
from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS, MNEMONIC, devnet_validator
from genesis.models import DEFAULT_MODEL
from genesis.spec import InvalidSpec, devnet_spec, load_spec, parse_json, spec_hash, template, write_spec
from inference.opening import program_root, read_shape_record
from primitives.address import CREATE2_DEPLOYER, HISTORY_STORAGE, MARKET, STAKING, SYSTEM_ACCOUNTS
from primitives.block import decode_block
from primitives.hashing import keccak
from primitives.params import COIN
from vm.state import StateReader
from vm.system import views

TIME_MS = 1_700_000_000_123


def devnet(**fields: Any) -> dict[str, Any]:
    return devnet_spec(4, TIME_MS, **fields)


def test_the_ten_accounts_are_those_of_the_mnemonic():
    Account.enable_unaudited_hdwallet_features()
    for index, key in enumerate(ACCOUNT_KEYS):
        account = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
        assert bytes(account.key) == key
        assert bytes.fromhex(account.address[2:]) == ACCOUNT_ADDRESSES[index]


def test_the_keys_of_validators_differ_and_are_made_from_the_index():
    keys = [devnet_validator(index) for index in range(16)]
    secrets = [secret for own in keys for secret in (own.operator, own.consensus, own.beacon, own.node, own.hot)]
    assert len(set(secrets)) == 16 * 5
    assert keys[3] == devnet_validator(3)
    assert keys[0].consensus == keccak(b"labora/devnet/validator/0/consensus")
    assert (len(keys[0].beacon_public), len(keys[0].node_public)) == (48, 32)


def test_the_devnets_block_zero_never_changes_unnoticed():
    """A change of this hash is a change of the devnet's rules or state: on purpose, or a mistake."""
    built = build_genesis(load_spec(devnet()))
    again = build_genesis(load_spec(json.loads(json.dumps(devnet()))))
    assert built.block.hash == again.block.hash
    assert built.nodes == again.nodes
    assert decode_block(built.block.wire_body) == built.block


def test_what_a_specification_says_is_what_makes_the_hash_not_how_it_is_laid_out(tmp_path):
    path = tmp_path / "genesis.json"
    write_spec(devnet(), path)
    shuffled = dict(reversed(list(devnet().items())))
    assert load_spec(path) == load_spec(str(path)) == load_spec(devnet()) == load_spec(shuffled)
    hashes = {
        build_genesis(load_spec(each)).block.hash
        for each in (
            devnet(),
            devnet_spec(3, TIME_MS),
            devnet_spec(4, TIME_MS + 1),
            devnet_spec(4, TIME_MS, 500),
            devnet(params={"verdict_window": 9}),
        )
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("validators", range(1, 17))
def test_a_devnet_of_one_to_sixteen_validators_is_a_chain(validators):
    spec = load_spec(devnet_spec(validators, TIME_MS))
    assert len(first_set(spec)) == len(spec.validators) == validators


def test_rates_scale_with_the_block_interval():
    slow, fast = load_spec(devnet()), load_spec(devnet_spec(4, TIME_MS, 250))
    assert (slow.params.block_interval_ms, fast.params.block_interval_ms) == (1_000, 250)
    assert slow.models[0].reference_macs_per_block == 4 * fast.models[0].reference_macs_per_block
    assert slow.validators[0].serves[0][1] == 4 * fast.validators[0].serves[0][1]
    assert slow.models[0].model_id == fast.models[0].model_id


def test_block_zero_holds_what_the_specification_says():
    spec = load_spec(devnet())
    built = build_genesis(spec)
    header, sidecar = built.block.header, built.block.sidecar
    assert (header.number, header.timestamp, header.mix_hash) == (0, TIME_MS // 1000, spec.spec_hash)
    assert (sidecar.time_ms, sidecar.proposer, sidecar.beacon_proof) == (TIME_MS, bytes(20), b"")
    assert built.block.last_commit == b"\xc0"
    reader = StateReader(built.nodes, header.state_root)
    for address in ACCOUNT_ADDRESSES:
        assert reader.balance(address) == 10_000 * COIN
    for validator in spec.validators:
        assert reader.balance(validator.operator) == 1_000 * COIN
        assert reader.balance(validator.hot) == 1_000 * COIN
        assert views.operator_by_hot(reader, validator.hot) == validator.operator
        assert views.payout(reader, validator.operator) == validator.payout
    assert reader.balance(STAKING) == 4 * 10_000 * COIN
    assert reader.balance(MARKET) == spec.fund
    assert all(reader.code(account) == b"\xfe" for account in SYSTEM_ACCOUNTS)
    assert reader.code(HISTORY_STORAGE)
    assert (reader.nonce(CREATE2_DEPLOYER), reader.code_hash(CREATE2_DEPLOYER).hex()) == (
        1,
        "2fa86add0aed31f33a762c9d88e807c475bd51d0f52bd0955754b2608f7e4989",
    )
    sets = [views.validator_set(reader, epoch) for epoch in (0, 1)]
    assert sets == [first_set(spec)] * 2 == [built.sets[0]] * 2
    assert sidecar.validator_set_hash == sidecar.next_validator_set_hash == sets[0].hash
    assert views.seed_mix(reader, 0) == views.seed_mix(reader, 1) == spec.spec_hash


def test_the_shipped_model_is_in_the_specification_whole():
    """A node needs no model file to know the chain's genesis."""
    spec = devnet()
    manifest = genesis_spec.shipped_manifest(DEFAULT_MODEL)
    assert spec["models"][0]["id"] == f"0x{manifest.model_id().hex()}"
    model = load_spec(spec).models[0]
    program = read_shape_record(model.record)
    assert (program.shape, program.embedding_exponent, program.cost) == (
        manifest.shape, manifest.embedding_exponent, manifest.cost,
    )  # fmt: skip
    assert (model.program_root, model.stop_ids) == (program_root(manifest), manifest.stop)


def _set(path: str, value: Any) -> Any:
    """A change of the specification at a dotted path; `...` takes the entry away."""

    def change(spec: dict[str, Any]) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = spec
        for part in way:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


def _twice(spec: dict[str, Any]) -> None:
    spec["validators"][1]["hot"] = spec["validators"][0]["hot"]


REFUSALS = [
    ("format 2; this version reads 1", _set("format", 2)),
    ("the specification: fund missing", _set("fund", ...)),
    ("the specification: unknown extra", _set("extra", 1)),
    ("params: unknown parameter 'speed'", _set("params.speed", 1)),
    ("params: parameters break the relation: verdict_window", _set("params.verdict_window", 7)),
    ("params: parameter chain_id must be a non-negative integer", _set("params.chain_id", "1")),
    ("genesis_time_ms: expected an integer from 1", _set("genesis_time_ms", 0)),
    ("accounts: expected a list", _set("accounts", {})),
    ("accounts\\[0\\]: expected an object", _set("accounts.0", "x")),
    ("accounts\\[0\\].balance: expected wei as a decimal string", _set("accounts.0.balance", 1)),
    ("accounts\\[0\\].balance: expected wei as a decimal string", _set("accounts.0.balance", "0x1")),
    ("accounts\\[0\\].balance: .* is above 2\\*\\*128", _set("accounts.0.balance", str(2**128))),
    ("accounts\\[0\\].address: .* does not match its checksum", _set("accounts.0.address", "0x" + "aA" * 20)),
    ("accounts\\[0\\].address: .* 19 bytes", _set("accounts.0.address", "0x" + "aa" * 19)),
    ("accounts\\[0\\].address: .* set by the chain itself", _set("accounts.0.address", "0x" + MARKET.hex())),
    ("accounts: the address .* stands there twice", lambda spec: spec["accounts"].append(spec["accounts"][0])),
    ("accounts\\[0\\].code: expected 0x and hexadecimal", _set("accounts.0.code", "fe")),
    ("validators: a chain begins with at least one", _set("validators", [])),
    ("validators\\[0\\]: operator missing", _set("validators.0.operator", ...)),
    ("validators\\[0\\].bond: .* is below bond_min", _set("validators.0.bond", "1")),
    ("validators\\[0\\].bond: .* is no multiple", _set("validators.0.bond", str(1_000 * COIN + 1))),
    ("validators\\[0\\].beacon_key: expected 48 bytes, found 47", _set("validators.0.beacon_key", "0x" + "00" * 47)),
    ("validators\\[0\\].beacon_key: ", _set("validators.0.beacon_key", "0xc0" + "00" * 47)),
    ("validators\\[0\\].serves\\[0\\].model: no model 'gpt' is listed", _set("validators.0.serves.0.model", "gpt")),
    ("validators\\[0\\].serves\\[0\\].macs_per_block: ", _set("validators.0.serves.0.macs_per_block", 0)),
    ("validators: the hot .* stands there twice", _twice),
    ("models\\[0\\].record: a shape's record of 1 bytes", _set("models.0.record", "0x00")),
    ("models\\[0\\].program_root: expected 32 bytes", _set("models.0.program_root", "0x00")),
    ("models\\[0\\].stop_ids: .* not all below the vocabulary", _set("models.0.stop_ids", [9999])),
    ("models\\[0\\].stop_ids: 17 entries; at most 16", _set("models.0.stop_ids", list(range(17)))),
    ("models\\[0\\].id: expected 32 bytes", _set("models.0.id", "0x00")),
    ("no model 'huge' is shipped", _set("models.0", {"folder": "huge", "reference_macs_per_block": 1})),
    ("no name of a model folder", _set("models.0", {"folder": "../x", "reference_macs_per_block": 1})),
]


@pytest.mark.parametrize(("text", "change"), REFUSALS, ids=[text[:50] for text, _ in REFUSALS])
def test_a_specification_that_makes_no_chain_is_refused_with_the_place(text, change):
    spec = deepcopy(devnet())
    change(spec)
    with pytest.raises(InvalidSpec, match=text):
        load_spec(spec)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "holds a list"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": 1.0}', "no integer"),
        (b'{"a": NaN}', "no integer"),
        (b"[" * 100_000, "nests deeper than 8"),
        (b'{"a": "[[[[[[[[[[", "b": [1', "is not JSON"),
        (b" " * (8 * 1024 * 1024 + 1), "has 8388609 bytes"),
    ],
)
def test_a_file_that_is_no_specification_is_refused(data, text):
    with pytest.raises(InvalidSpec, match=text):
        parse_json(data, "genesis.json")


def test_a_missing_file_and_a_template_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(InvalidSpec, match="cannot read the genesis file"):
        load_spec(Path(tmp_path / "none.json"))
    with pytest.raises(InvalidSpec, match=r"this is a template: complete it first"):
        load_spec(template())
    with pytest.raises(InvalidSpec, match=r"no network 'moon\.json'"):
        template("moon.json")


@pytest.mark.parametrize(("validators", "interval"), [(0, 1000), (17, 1000), (4, 0)])
def test_a_devnet_has_bounds(validators, interval):
    with pytest.raises(InvalidSpec):
        devnet_spec(validators, TIME_MS, interval)


def test_a_specification_whose_epoch_turn_no_prologue_could_pay_is_refused_when_block_zero_is_made():
    unpayable = devnet_spec(1, 1, params={"epoch_blocks": 100_000, "prologue_items_max": 5})
    with pytest.raises(InvalidSpec, match="an epoch turn may need"):
        build_genesis(load_spec(unpayable))


def test_keys_of_ones_own_may_be_given():
    keys = [devnet_validator(100 + index) for index in range(2)]
    spec = load_spec(devnet_spec(2, TIME_MS, keys=keys))
    assert {validator.operator for validator in spec.validators} == {own.operator_address for own in keys}
    with pytest.raises(InvalidSpec, match="1 sets of keys for 2 validators"):
        devnet_spec(2, TIME_MS, keys=keys[:1])


def test_the_hash_is_that_of_the_canonical_text():
    assert spec_hash({"b": 1, "a": [2]}) == keccak(b'{"a":[2],"b":1}')


def test_batches_are_read_and_what_a_model_cannot_be_asked_is_refused():
    spec = devnet()
    found = load_spec(spec).batches
    assert [(batch.name[:10], batch.kind, len(batch.prompts)) for batch in found] == [
        ("evaluation", 2, 4), ("embeddings", 1, 4)
    ]  # fmt: skip
    good = spec["batches"][0]
    for change, words in (
        ({"kind": "generate"}, "kind: expected one of"),
        ({"prompts": []}, "nothing that the model could be asked"),
        ({"prompts": [[5]]}, r"prompts\[0\]: 1 tokens"),
        ({"prompts": [[5, 2**31]]}, r"prompts\[0\]: 2 tokens"),
        ({"prompts": [[1, "2"]]}, "expected an integer"),
        ({"model": "nobody"}, "no model 'nobody' is listed"),
        ({"more": 1}, "more"),
    ):
        with pytest.raises(InvalidSpec, match=words):
            load_spec({**spec, "batches": [{**good, **change}]})
    with pytest.raises(InvalidSpec, match="at most 16"):
        load_spec({**spec, "batches": [good] * 17})
