"""The specification of a chain as a JSON file: strict reading into a GenesisSpec, and completing the devnet's template.

Owns the file's form; block 0 is made of it in genesis.build. Imports no virtual machine: the launcher uses it too.

    {"format": 1, "params": {name: integer ...}, "genesis_time_ms": integer,
     "accounts": [{"address", "balance", "nonce"?, "code"?}], "fund": wei,
     "models": [{"folder", "reference_macs_per_block"} or
                {"id", "name", "record", "program_root", "stop_ids", "reference_macs_per_block"}],
     "validators": [{"operator", "consensus", "beacon_key", "node_key", "hot", "payout", "bond",
                     "serves": [{"model": name or id, "macs_per_block": integer}]}],
     "batches"?: [{"name", "model": name or id, "kind": "embed" or "score", "prompts": [[token id ...] ...]}]}

Wei are decimal strings, multiply-adds integers, bytes 0x text; record is that of the model's shape. A template has no
genesis_time_ms and no validators.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from genesis.keys import ACCOUNT_ADDRESSES, ValidatorKeys, devnet_validator
from inference.opening import claims_of, read_shape_record
from inference.program import Manifest, ProgramError, decode_manifest
from primitives.address import (
    HISTORY_STORAGE,
    SECOND_REFEREE,
    SYSTEM_ACCOUNTS,
    SYSTEM_ADDRESS,
    InvalidAddress,
    checksum,
    parse,
)
from primitives.bls import PUBLIC_KEY_BYTES, InvalidBLS, check_public_key
from primitives.genesis import GenesisAccount, GenesisBatch, GenesisModel, GenesisSpec, GenesisValidator
from primitives.hashing import keccak
from primitives.params import STAKE_UNIT, InvalidParams, params_from_json
from primitives.task import STOP_IDS_MAX, Kind

FORMAT = 1
SPEC_BYTES_MAX = 8 * 1024 * 1024
ACCOUNTS_MAX = 100_000
MODELS_MAX = 256
BATCHES_MAX = 16
BATCH_PROMPTS_MAX = 256
BATCH_TOKENS_MAX = 256
"""Prompts of batches lie in the state: 32 words each."""
TEXT_MAX = 64
UINT64_MAX = 2**64 - 1
WEI_MAX = 2**128 - 1
"""Of any amount in a specification: sums of all of them stay far below 2**256."""
DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")
HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
DEPTH_MAX = 8
"""Checked before json sees the text: it recurses in C, and py-evm raises the recursion limit to where that crashes."""
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")
DEVNET_TEMPLATE = "devnet.json"
DEVNET_VALIDATORS_MAX = 16


class InvalidSpec(ValueError):
    """A specification that makes no chain; the text names the place and what it should be."""


def load_spec(source: Path | str | Mapping[str, Any]) -> GenesisSpec:
    """The specification in a file, or already read from one. Raises InvalidSpec."""
    if isinstance(source, Path | str):
        path = Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidSpec(f"cannot read the genesis file {path}: {error.strerror}") from error
        return _read(parse_json(data, str(path)))
    return _read(dict(source))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The object in a specification file: integers only, no name twice. Raises InvalidSpec."""
    if len(data) > SPEC_BYTES_MAX:
        raise InvalidSpec(f"{name} has {len(data)} bytes; a specification has at most {SPEC_BYTES_MAX}")
    depth = 0
    for bracket in BRACKETS.findall(STRINGS.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            raise InvalidSpec(f"{name} nests deeper than {DEPTH_MAX}")
    try:
        value = json.loads(data, object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidSpec(f"{name} holds a {type(value).__name__}; a specification is an object")
    return value


def canonical_json(spec: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, ASCII."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def spec_hash(spec: Mapping[str, Any]) -> bytes:
    """keccak of the canonical JSON: how a file is laid out does not matter. Also the beacon's first mix."""
    return keccak(canonical_json(spec))


def write_spec(spec: Mapping[str, Any], path: Path) -> None:
    """The specification as a file that people can read; whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(spec, indent=2, ensure_ascii=True) + "\n", encoding="ascii")
    part.replace(path)


def template(name: str = DEVNET_TEMPLATE) -> dict[str, Any]:
    """A shipped specification or template of genesis/networks. Raises InvalidSpec."""
    resource = files("genesis.networks") / name
    if not resource.is_file():
        raise InvalidSpec(f"no network {name!r} is shipped")
    return parse_json(resource.read_bytes(), name)


def devnet_spec(
    validators: int,
    genesis_time_ms: int,
    block_interval_ms: int | None = None,
    keys: Sequence[ValidatorKeys] | None = None,
    params: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The devnet's template completed: a specification that load_spec reads, with everything in it spelled out.

    validators: 1 to 16. block_interval_ms: the template's by default; declared and reference rates, which are
    multiply-adds a block, scale with it. keys: by default devnet_validator(i). params: overrides of parameters, for
    tests and experiments. Raises InvalidSpec.
    """
    if not 1 <= validators <= DEVNET_VALIDATORS_MAX:
        raise InvalidSpec(f"{validators} validators; a devnet has 1 to {DEVNET_VALIDATORS_MAX}")
    form = template()
    member = form.pop("validator")
    base_interval = form["params"]["block_interval_ms"]
    interval = base_interval if block_interval_ms is None else block_interval_ms
    if interval < 1:
        raise InvalidSpec(f"a block interval of {interval} ms; at least 1")

    def scaled(macs_per_block: int) -> int:
        return max(1, int(macs_per_block) * interval // int(base_interval))

    form["params"] |= {**(params or {}), "block_interval_ms": interval}
    form["genesis_time_ms"] = genesis_time_ms
    form["accounts"] += [
        {"address": checksum(address), "balance": form["account_balance"]} for address in ACCOUNT_ADDRESSES
    ]
    params_from_json(form["params"])
    models = [_model(entry, f"models[{i}]") for i, entry in enumerate(form["models"])]
    form["models"] = [_model_json(model, scaled(model.reference_macs_per_block)) for model in models]
    form["validators"] = []
    for own in keys if keys is not None else [devnet_validator(index) for index in range(validators)]:
        operator, hot = checksum(own.operator_address), checksum(own.hot_address)
        form["accounts"] += [
            {"address": operator, "balance": member["operator_balance"]},
            {"address": hot, "balance": member["hot_balance"]},
        ]
        form["validators"].append(
            {
                "operator": operator,
                "consensus": checksum(own.consensus_address),
                "beacon_key": f"0x{own.beacon_public.hex()}",
                "node_key": f"0x{own.node_public.hex()}",
                "hot": hot,
                "payout": operator,
                "bond": member["bond"],
                "serves": [
                    {"model": entry["model"], "macs_per_block": scaled(entry["macs_per_block"])}
                    for entry in member["serves"]
                ],
            }
        )
    if len(form["validators"]) != validators:
        raise InvalidSpec(f"{len(form['validators'])} sets of keys for {validators} validators")
    del form["account_balance"]
    load_spec(form)
    return form


# -------------------------------------------------------------------------------- reading


def _read(spec: dict[str, Any]) -> GenesisSpec:
    if "validators" not in spec and "validator" in spec:
        raise InvalidSpec("this is a template: complete it first (labora devnet and labora init do)")
    names = {"format", "params", "genesis_time_ms", "accounts", "models", "validators", "fund"}
    _keys(spec, "the specification", names, {"batches"})
    if spec["format"] != FORMAT:
        raise InvalidSpec(f"format {spec['format']!r}; this version reads {FORMAT}")
    try:
        params = params_from_json(_mapping(spec["params"], "params"))
    except InvalidParams as error:
        raise InvalidSpec(f"params: {error}") from error
    accounts = tuple(
        _account(entry, f"accounts[{i}]") for i, entry in enumerate(_list(spec["accounts"], "accounts", ACCOUNTS_MAX))
    )
    _distinct("accounts", "address", (account.address for account in accounts))
    listed = _list(spec["models"], "models", MODELS_MAX)
    models = tuple(_model(entry, f"models[{i}]") for i, entry in enumerate(listed))
    _distinct("models", "id", (model.model_id for model in models))
    _distinct("models", "name", (model.name.encode() for model in models))
    members = _list(spec["validators"], "validators", params.validators_max)
    if not members:
        raise InvalidSpec("validators: a chain begins with at least one")
    validators = tuple(_validator(entry, f"validators[{i}]", models) for i, entry in enumerate(members))
    for index, validator in enumerate(validators):
        if validator.bond < params.bond_min:
            raise InvalidSpec(f"validators[{index}].bond: {validator.bond} wei is below bond_min {params.bond_min}")
        if validator.bond % STAKE_UNIT:
            raise InvalidSpec(f"validators[{index}].bond: {validator.bond} wei is no multiple of {STAKE_UNIT}")
    for role in ("operator", "consensus_address", "beacon_key", "node_key", "hot"):
        _distinct("validators", role, (getattr(validator, role) for validator in validators))
    return GenesisSpec(
        params=params,
        genesis_time_ms=_integer(spec["genesis_time_ms"], "genesis_time_ms", 1),
        accounts=accounts,
        validators=validators,
        models=models,
        fund=_wei(spec["fund"], "fund"),
        spec_hash=spec_hash(spec),
        batches=tuple(
            _batch(entry, f"batches[{i}]", models)
            for i, entry in enumerate(_list(spec.get("batches", []), "batches", BATCHES_MAX))
        ),
    )


def _account(value: object, where: str) -> GenesisAccount:
    entry = _keys(value, where, {"address", "balance"}, {"nonce", "code"})
    address = _address(entry["address"], f"{where}.address")
    if address in (*SYSTEM_ACCOUNTS, SECOND_REFEREE, HISTORY_STORAGE, SYSTEM_ADDRESS):
        raise InvalidSpec(f"{where}.address: {entry['address']} is set by the chain itself")
    return GenesisAccount(
        address=address,
        balance=_wei(entry["balance"], f"{where}.balance"),
        nonce=_integer(entry.get("nonce", 0), f"{where}.nonce"),
        code=_hex(entry.get("code", "0x"), f"{where}.code"),
    )


def _model(value: object, where: str) -> GenesisModel:
    if isinstance(value, dict) and "folder" in value:
        entry = _keys(value, where, {"folder", "reference_macs_per_block"})
        rate = _integer(entry["reference_macs_per_block"], f"{where}.reference_macs_per_block", 1)
        manifest = shipped_manifest(_text(entry["folder"], f"{where}.folder"))
        return GenesisModel(manifest.model_id(), manifest.name, *claims_of(manifest), reference_macs_per_block=rate)
    entry = _keys(value, where, {"id", "name", "record", "program_root", "stop_ids", "reference_macs_per_block"})
    stop_ids = _list(entry["stop_ids"], f"{where}.stop_ids", STOP_IDS_MAX)
    model = GenesisModel(
        model_id=_hex(entry["id"], f"{where}.id", 32),
        name=_text(entry["name"], f"{where}.name"),
        record=_hex(entry["record"], f"{where}.record"),
        program_root=_hex(entry["program_root"], f"{where}.program_root", 32),
        stop_ids=tuple(_integer(stop, f"{where}.stop_ids") for stop in stop_ids),
        reference_macs_per_block=_integer(entry["reference_macs_per_block"], f"{where}.reference_macs_per_block", 1),
    )
    try:
        vocabulary = read_shape_record(model.record).shape.vocabulary
    except ProgramError as error:
        raise InvalidSpec(f"{where}.record: {error}") from error
    if any(stop >= vocabulary for stop in model.stop_ids):
        raise InvalidSpec(f"{where}.stop_ids: {model.stop_ids} are not all below the vocabulary {vocabulary}")
    return model


def _batch(value: object, where: str, models: Sequence[GenesisModel]) -> GenesisBatch:
    entry = _keys(value, where, {"name", "model", "kind", "prompts"})
    model = _listed(entry["model"], f"{where}.model", models)
    kinds = {kind.name.lower(): kind for kind in Kind if kind.is_vector}
    if entry["kind"] not in kinds:
        raise InvalidSpec(f"{where}.kind: expected one of {sorted(kinds)}, found {entry['kind']!r:.60}")
    kind, shape = kinds[entry["kind"]], read_shape_record(model.record).shape
    prompts = []
    for index, tokens in enumerate(_list(entry["prompts"], f"{where}.prompts", BATCH_PROMPTS_MAX)):
        place = f"{where}.prompts[{index}]"
        prompt = tuple(_integer(token, place) for token in _list(tokens, place, BATCH_TOKENS_MAX))
        if not (2 if kind is Kind.SCORE else 1) <= len(prompt) <= shape.context or max(prompt) >= shape.vocabulary:
            raise InvalidSpec(f"{place}: {len(prompt)} tokens that the model cannot be asked of this kind")
        prompts.append(prompt)
    if not prompts or (kind is Kind.SCORE and not shape.causal):
        raise InvalidSpec(f"{where}: there is nothing that the model could be asked of kind {entry['kind']}")
    return GenesisBatch(_text(entry["name"], f"{where}.name"), model.model_id, int(kind), tuple(prompts))


def _listed(value: object, where: str, models: Sequence[GenesisModel]) -> GenesisModel:
    """The model of that name or id."""
    wanted = _text(value, where) if not isinstance(value, str) or not HEX.fullmatch(value) else value
    found = [model for model in models if wanted in (model.name, f"0x{model.model_id.hex()}")]
    if not found:
        raise InvalidSpec(f"{where}: no model {wanted!r} is listed")
    return found[0]


def shipped_manifest(folder: str) -> Manifest:
    """The manifest in a folder of genesis/models. Raises InvalidSpec."""
    if not FOLDER_NAME.fullmatch(folder):
        raise InvalidSpec(f"{folder!r} is no name of a model folder")
    resource = files("genesis.models") / folder / "manifest.json"
    if not resource.is_file():
        raise InvalidSpec(f"no model {folder!r} is shipped in genesis/models")
    try:
        return decode_manifest(resource.read_bytes())
    except ProgramError as error:
        raise InvalidSpec(f"the model in genesis/models/{folder}: {error}") from error


def _model_json(model: GenesisModel, reference_macs_per_block: int) -> dict[str, Any]:
    return {
        "id": f"0x{model.model_id.hex()}",
        "name": model.name,
        "record": f"0x{model.record.hex()}",
        "program_root": f"0x{model.program_root.hex()}",
        "stop_ids": list(model.stop_ids),
        "reference_macs_per_block": reference_macs_per_block,
    }


def _validator(value: object, where: str, models: Sequence[GenesisModel]) -> GenesisValidator:
    roles = ("operator", "consensus", "hot", "payout")
    entry = _keys(value, where, {*roles, "beacon_key", "node_key", "bond", "serves"})
    address = {role: _address(entry[role], f"{where}.{role}") for role in roles}
    beacon_key = _hex(entry["beacon_key"], f"{where}.beacon_key", PUBLIC_KEY_BYTES)
    try:
        check_public_key(beacon_key)
    except InvalidBLS as error:
        raise InvalidSpec(f"{where}.beacon_key: {error}") from error
    serves = []
    for index, item in enumerate(_list(entry["serves"], f"{where}.serves", MODELS_MAX)):
        place = f"{where}.serves[{index}]"
        served = _keys(item, place, {"model", "macs_per_block"})
        model_id = _listed(served["model"], f"{place}.model", models).model_id
        serves.append((model_id, _integer(served["macs_per_block"], f"{place}.macs_per_block", 1)))
    _distinct(where, "serves", (model for model, _ in serves))
    return GenesisValidator(
        operator=address["operator"],
        consensus_address=address["consensus"],
        beacon_key=beacon_key,
        node_key=_hex(entry["node_key"], f"{where}.node_key", 32),
        hot=address["hot"],
        payout=address["payout"],
        bond=_wei(entry["bond"], f"{where}.bond"),
        serves=tuple(serves),
    )


def _keys(value: object, where: str, needed: set[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    entry = _mapping(value, where)
    missing, unknown = sorted(needed - entry.keys()), sorted(entry.keys() - needed - set(optional))
    if missing:
        raise InvalidSpec(f"{where}: {', '.join(missing)} missing")
    if unknown:
        raise InvalidSpec(f"{where}: unknown {', '.join(unknown)}")
    return entry


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSpec(f"{where}: expected an object, found {value!r:.60}")
    return value


def _list(value: object, where: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidSpec(f"{where}: expected a list, found {value!r:.60}")
    if len(value) > most:
        raise InvalidSpec(f"{where}: {len(value)} entries; at most {most}")
    return value


def _integer(value: object, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= UINT64_MAX:
        raise InvalidSpec(f"{where}: expected an integer from {least} to 2**64 - 1, found {value!r:.60}")
    return value


def _wei(value: object, where: str) -> int:
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise InvalidSpec(f"{where}: expected wei as a decimal string, found {value!r:.60}")
    if (wei := int(value)) > WEI_MAX:
        raise InvalidSpec(f"{where}: {value} wei is above 2**128 - 1")
    return wei


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_MAX or not value.isascii() or not value.isprintable():
        raise InvalidSpec(f"{where}: expected 1 to {TEXT_MAX} printable ASCII characters, found {value!r:.60}")
    return value


def _hex(value: object, where: str, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not HEX.fullmatch(value):
        raise InvalidSpec(f"{where}: expected 0x and hexadecimal bytes, found {value!r:.60}")
    data = bytes.fromhex(value[2:])
    if length is not None and len(data) != length:
        raise InvalidSpec(f"{where}: expected {length} bytes, found {len(data)}")
    return data


def _address(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidSpec(f"{where}: expected an address, found {value!r:.60}")
    try:
        return parse(value)
    except InvalidAddress as error:
        raise InvalidSpec(f"{where}: {error}") from error


def _distinct(where: str, what: str, values: Iterable[bytes]) -> None:
    seen: set[bytes] = set()
    for value in values:
        if value in seen:
            raise InvalidSpec(f"{where}: the {what} 0x{value.hex()} stands there twice")
        seen.add(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise InvalidSpec(f"a name stands twice in one object: {sorted(names)}")
    return dict(pairs)


def _no_float(text: str) -> Any:
    raise InvalidSpec(f"{text} is no integer; a specification holds no fractions")
