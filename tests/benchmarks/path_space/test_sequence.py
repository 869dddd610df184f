"""The transformer that translates: every run recorded, scores that mean what they say."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space import sequence as gsgd_sequence
from benchmarks.path_space.jobs import METHODS, PAIRS, jobs, traced_problem
from benchmarks.path_space.methods import named
from common.data.generated.translation import PAD, Lexicon, translations
from common.networks import Transformer
from common.progress import Silent
from common.results.records import Record, RecordWriter, read_records
from common.seeds import streams
from common.training import TrainState
from gsgd_jax import PathSpaceState
from tests.compiled import compiled_quickly

TINY = gsgd_sequence.Settings(
    methods=("G-SGD, skeleton init",), lexicon=Lexicon(nouns=2, adjectives=1, verbs=1),
    train_size=32, validation_size=12, test_size=12, width=4, hidden=6, heads=2, layers=1,
    batch_size=16, epochs=2, learning_rates=(0.1, 1e30),
)  # fmt: skip
CONTEXT = Context(seeds=(0, 1), data_dir=None, progress=Silent())


@pytest.fixture(scope="module", autouse=True)
def drawn_by_rbg():
    """Initial weights are drawn by a generator that takes a quarter of the time to compile."""
    with jax.default_prng_impl("rbg"):
        yield


@pytest.fixture(scope="module")
def records():
    return list(gsgd_sequence.run(TINY, CONTEXT))


@pytest.fixture(scope="module")
def network():
    """A network, the sentences of `TINY`, and some of its weights."""
    data = translations(streams(0).data, (32, 12, 12), lexicon=TINY.lexicon)
    tokens, labels = map(jnp.asarray, data.parts[2])
    module = Transformer(len(data.words), 4, 6, 2, 1, length=tokens.shape[1])
    params = compiled_quickly(module.init)(jax.random.key(0), tokens[:1])["params"]
    return module, tokens, labels, params


def test_there_is_one_record_for_every_run(records):
    found = [(r.method, r.setting["learning_rate"], r.seed) for r in records]
    assert sorted(found) == sorted(itertools.product(TINY.methods, (0.1, 1e30), (0, 1)))
    for record in records:
        assert record.curve["epoch"] == [1, 2]
        for name in ("loss", "validation_token_accuracy", "test_accuracy", "test_token_accuracy"):
            assert len(record.curve[name]) == 2
            np.testing.assert_equal(record.metrics[name], record.curve[name][-1])
    losses = {r.metrics["loss"] for r in records if r.setting["learning_rate"] == 0.1}
    assert len(losses) == 2  # seeds differ
    assert all(math.isfinite(loss) for loss in losses)


def test_tables_and_figures_are_made_of_records_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    for record in (
        dataclasses.replace(r, method=name) for name in ("SGD", "G-Adam", "Adam") for r in records
    ):
        writer.write(record)
    found = read_records(tmp_path / "records.jsonl")
    table = gsgd_sequence.tables(found)
    assert "sentences right, %" in table
    assert "tokens right, %" in table
    assert table.count("| G-Adam - Adam ") == 2
    written = gsgd_sequence.plots(found, tmp_path)
    assert [path.name for path in written] == ["learning_rates.png", "curves.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_rates_are_chosen_by_tokens_of_validation_sentences():
    def record(rate, tokens, test):
        metrics = {"validation_token_accuracy": tokens, "validation_accuracy": 0.0}
        metrics |= {"test_accuracy": test, "test_token_accuracy": 0.5}
        return Record(method="SGD", setting={"learning_rate": rate}, seed=0, metrics=metrics,
                      wall_time=0.0)  # fmt: skip

    table = gsgd_sequence.tables([record(0.1, 0.6, 0.11), record(0.3, 0.7, 0.07)])
    assert "7.00 (n = 1)" in table
    assert "11.00" not in table


def test_a_sentence_is_right_exactly_if_greedy_decoding_makes_no_mistake(network):
    """Decoded word by word from what was said before; then every other sentence is falsified."""
    module, tokens, labels, params = network
    bias = params["logits"]["bias"].at[PAD].set(-1e3)  # which is never asked for
    params = {**params, "logits": {**params["logits"], "bias": bias}}
    begin = tokens.shape[1] - labels.shape[1]

    @compiled_quickly
    def answers(said):
        batch, state = (said[:, :-1], said[:, begin + 1 :]), TrainState(params, (), (), None)
        words = module.apply({"params": params}, said[:, :-1]).argmax(-1)
        return words, gsgd_sequence.translation_metrics(module)(state, batch)

    said = np.c_[tokens, np.full(len(tokens), PAD)]
    said[:, begin + 1 :] = PAD
    for t in range(begin, tokens.shape[1]):
        said[:, t + 1] = answers(said)[0][:, t]
    figures = answers(said)[1]
    np.testing.assert_array_equal(figures["accuracy"], 1)
    np.testing.assert_array_equal(figures["token_accuracy"], 1)
    for row in range(0, len(said), 2):  # at one place, each sentence at another
        at = begin + 1 + row % labels.shape[1]
        said[row, at] = said[row, at] % (module.vocabulary - 1) + 1
    figures = answers(said)[1]
    np.testing.assert_array_equal(figures["accuracy"], np.arange(len(said)) % 2)
    assert (np.asarray(figures["token_accuracy"]) < 1)[::2].all()


def test_figures_leave_out_the_filling(network):
    module, tokens, labels, params = network

    @compiled_quickly
    def all_of_them(params):
        batch, state = (tokens, labels), TrainState(params, (), (), jnp.array(0))
        loss, _ = gsgd_sequence.translation_loss(module)(params, (), batch, None)
        figures = gsgd_sequence.translation_metrics(module)(state, batch)
        return figures, loss, module.apply({"params": params}, tokens)

    found, loss, logits = all_of_them(params)
    logits = np.asarray(logits, np.float64)[:, -11:]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.nonzero(np.asarray(labels) != PAD)
    wanted = np.asarray(labels)[rows, columns]
    each = -log_p[rows, columns, wanted]
    right = logits[rows, columns].argmax(-1) == wanted
    assert len(each) < labels.size
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)
    for name, values in (("cross_entropy", each), ("token_accuracy", right)):
        means = [values[rows == i].mean() for i in range(len(tokens))]
        np.testing.assert_allclose(found[name], means, rtol=1e-4)


def test_the_group_is_a_graph_of_attention_and_feed_forward_units(network):
    module, tokens, _, params = network
    given = traced_problem(module, tokens[:1], params)
    assert given.gauge.num_nodes == 2 * 4 + 6  # query-key and value-output dimensions, units
    outside = [n for i, n in enumerate(given.gauge.names) if not given.gauge.touches(i)]
    assert set(outside) == {
        "down_0/bias", "embedding/embedding", "logits/bias", "logits/kernel", "positions",
    }  # fmt: skip


def test_pairs_share_their_first_weights_and_all_methods_their_seeds(network):
    module, tokens, _, params = network
    given = traced_problem(module, tokens[:1], params)
    usual = {seed: jax.tree.map(lambda w, s=seed: w + 0.01 * s, params) for seed in (0, 5)}
    found = {}
    for job in jobs(METHODS, lambda method: (0.1, 0.2), given, usual):
        found.setdefault(job.method.name, []).append(job)
    assert list(found) == [method.name for method in METHODS]
    for ours, theirs in PAIRS:
        every = []
        for name in (ours, theirs):
            assert [s for job in found[name] for s in job.seeds] == [0, 0, 5, 5]
            np.testing.assert_allclose(
                np.concatenate([j.rates for j in found[name]]), [0.1, 0.2] * 2
            )
            parts = [job.params for job in found[name]]
            every.append(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
        jax.tree.map(np.testing.assert_array_equal, *every)
        state = found[ours][0].make(0.1).init(params)
        assert isinstance(state, PathSpaceState)
        assert not isinstance(found[theirs][0].make(0.1).init(params), PathSpaceState)
    # Skeleton weights are at 1 after the reset, and the usual ones elsewhere.
    reset = jax.tree.map(lambda w: w[0], found["SGD, skeleton init"][0].params)
    flat = np.concatenate([np.ravel(w) for w in jax.tree.leaves(reset)])
    edges = np.r_[given.published.in_edges, given.published.out_edges]
    assert (flat[edges] == 1).all()
    start = np.concatenate([np.ravel(w) for w in jax.tree.leaves(usual[0])])
    others = np.setdiff1d(np.arange(flat.size), edges)
    np.testing.assert_array_equal(flat[others], start[others])


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"methods are SGD; G-SGD; .* Got H-SGD"):
        named(("SGD", "H-SGD"), METHODS)
