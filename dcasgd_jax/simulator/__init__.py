"""A parameter server and its workers, simulated exactly on one device or many."""

from dcasgd_jax.simulator.batches import BatchesEndedError
from dcasgd_jax.simulator.options import Engine, Together
from dcasgd_jax.simulator.simulation import SimulationInfo, simulate
from dcasgd_jax.simulator.slot_engine import slot_simulator
from dcasgd_jax.simulator.state import Simulator, SimulatorLog, SimulatorState
from dcasgd_jax.simulator.wavefront_engine import wavefront_simulator

__all__ = [
    "simulate",
    "SimulationInfo",
    "Engine",
    "slot_simulator",
    "wavefront_simulator",
    "Together",
    "Simulator",
    "SimulatorState",
    "SimulatorLog",
    "BatchesEndedError",
]
