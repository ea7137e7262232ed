"""labora_ methods: tasks with their story, validators, models, health. Wei and CWU are decimal strings."""

from typing import Any

from primitives.params import CWU
from rpc.codec import address, data, read_hash
from rpc.context import Context
from rpc.task_story import PlacedLog, tell
from vm.system import views


def task(context: Context, task_id: Any) -> Any:
    """A task's story from its logs; null when the chain knows none of that id."""
    wanted = read_hash(task_id, "task")
    logs = [
        PlacedLog(found.block_number, found.timestamp, found.transaction_hash, found.log)
        for found in context.ledger.task_logs(wanted)
    ]
    return tell(wanted, logs) if logs else None


def validators(context: Context) -> dict[str, Any]:
    """The set that votes on the next block, and every operator with bond, credit, power and what it serves."""
    ledger = context.ledger
    reader = ledger.reader()
    height = ledger.head.number + 1
    members = ledger.validator_set(height)
    power = {member.operator: member.power for member in members.validators}
    return {
        "height": ledger.head.number,
        "epoch": ledger.params.epoch(height),
        "totalPower": members.total_power,
        "validators": [
            {
                "operator": address(operator.operator),
                "consensusAddress": address(operator.consensus_address),
                "hot": address(operator.hot),
                "payout": address(operator.payout),
                "bondWei": str(operator.bond),
                "power": power.get(operator.operator, 0),
                "credit": _cwu(operator.credit),
                "active": operator.active,
                "jailed": operator.jailed,
                "serves": [
                    {
                        "model": data(service.model),
                        "declaredMacsPerBlock": str(service.declared),
                        "bestMacsPerBlock": str(service.best),
                        "dealt": service.dealt,
                        "missed": service.missed,
                    }
                    for service in operator.serves
                ],
            }
            for operator in views.operators(reader, ledger.params, height)
        ],
    }


def models(context: Context) -> list[dict[str, Any]]:
    """Models that tasks may name, those of genesis first."""
    return [
        {
            "model": data(model.model),
            "name": model.name,
            "listed": bool(model.record.listed),
            "vocabulary": model.record.vocabulary,
            "context": model.record.context,
            "stopIds": list(model.stop_ids),
            "servedBy": [address(server) for server in model.servers],
        }
        for model in views.models_of(context.ledger.reader())
    ]


def health(context: Context) -> dict[str, Any]:
    """How this node does: height, round, peers, engine, tasks, clock."""
    return context.backend.health()


def _cwu(macs: int) -> str:
    return f"{macs // CWU}.{macs % CWU:09d}"
