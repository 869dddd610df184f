"""The strict environment every test runs in: no accelerator, no network, no silent promotion.

Most of the time of a cold run would be spent on compiling well what runs once, so programs are
compiled without LLVM's optimisation, and by XLA's older emitters of loops, which are twice as
quick; in the processes that tests begin too. `optimised` asks for the former where a test is long
at work, or about the bits users get.
"""

import gc
import os
import signal
from pathlib import Path

# A shell starts what it puts in the background with Ctrl-C ignored, which children inherit: there
# the programs that tests interrupt would run to their ends.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before jax is imported: compiled programs are kept between runs, and nothing looks for a device.
_CACHE = Path(__file__).resolve().parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# A jaxlib that stops here with "unknown flag" has only the new emitters: leave this out then.
_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_EMITTERS}".strip()

import jax  # noqa: E402  (the environment above must be set first)
import jaxtyping  # noqa: E402  (as above)
import pytest  # noqa: E402  (as above)

from tests.compiled import as_users_do  # noqa: E402  (as above)
from tests.typechecked import beartype_once  # noqa: E402  (as above)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and dtypes written in annotations are checked here, and only here.
jaxtyping.install_import_hook(
    ["gsgd_jax", "dcasgd_jax", "lacim_jax"], f"{beartype_once.__module__}.{beartype_once.__name__}"
)

# Tracing makes objects by the million and hardly a cycle among them: to look for these after every
# 700 takes a twentieth of the time.
gc.set_threshold(50_000)

# A test may be skipped only for want of something this machine need not have.
ALLOWED_SKIP = "needs "
_unexpected: list[str] = []


class DoctestsAsTyped:
    """Runs docstrings' examples as users type them, without the tests' settings.

    A plugin, since the hooks of a conftest do not reach files outside its folder.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        """Lifts them around a docstring's example."""
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        with (
            as_users_do(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
        ):  # fmt: skip
            return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the plugin above."""
    config.pluginmanager.register(DoctestsAsTyped())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes every skip that does not say what the machine lacks."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIP):
            _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails the run on an unexpected skip."""
    if _unexpected and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the unexpected skips."""
    for line in _unexpected:
        terminalreporter.write_line(f"UNEXPECTED SKIP {line}", red=True)


@pytest.fixture
def optimised():
    """Compiles what the test runs as users do."""
    with as_users_do():
        yield


@pytest.fixture
def unchecked():
    """Without checked annotations, as users run the package: the errors met are its own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """Lets int32 meet float32, as optax's bias correction does (`decay ** count`): not our code."""
    with jax.numpy_dtype_promotion("standard"):
        yield
