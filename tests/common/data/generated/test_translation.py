"""The parallel corpus against a translator that reads words, and its promises."""

import itertools

import jax
import numpy as np
import pytest

from common.data.generated.translation import BEGIN, END, PAD, Lexicon, translations

SIZES = (600, 100, 200)


@pytest.fixture(scope="module")
def data():
    return translations(jax.random.key(3), SIZES)


def sentences(data, part):
    """Source and translation as words."""
    for tokens, labels in zip(data.parts[part].tokens, data.parts[part].labels, strict=True):
        source = [data.words[i] for i in tokens[: data.source_length] if i != PAD]
        target = [data.words[i] for i in labels if i != PAD]
        yield source, target


def parse_phrase(words):
    article, *rest = words
    plural = rest[-1] == "-s"
    *adjective, noun = rest[:-1] if plural else rest
    return article, adjective, noun, plural


def translate(source, genders):
    """From words to words: finds the verb, splits the sentence there, and says it anew."""
    at = next(i for i, word in enumerate(source) if word.startswith("verb"))
    before = [word for word in source[:at] if word not in ("did", "not")]
    subject, patient = parse_phrase(before), parse_phrase(source[at + 1 :])

    def say(article, adjective, noun, plural):
        form = f"{genders[noun]}{int(plural)}"
        their_article = {"a": "EIN", "the": "DER"}[article]
        return [
            f"{their_article}.{form}",
            noun.upper(),
            *(f"{a.upper()}.{form}" for a in adjective),
        ]

    phrases = [say(*subject), [*say(*patient), "OBJ"]]
    if patient[0] == "the":
        phrases.reverse()
    verb = f"{source[at].upper()}.{int(subject[3])}"
    tense = ["PAST"] if "did" in source else []
    negation = ["NEG"] if "not" in source else []
    return [*phrases[0], *phrases[1], verb, *tense, *negation, "END"]


def test_genders_seen_in_training_translate_every_unseen_sentence(data):
    """So all of it can be learnt; nothing but the genders is in the words and the rule."""
    genders = {}
    for _, target in sentences(data, 0):
        for article, noun in itertools.pairwise(target):
            if noun.startswith("NOUN"):
                gender = article.split(".")[1][0]
                assert genders.setdefault(noun.lower(), gender) == gender
    assert sorted(genders.values()) == ["f"] * 6 + ["m"] * 6
    for part in range(3):
        for source, target in sentences(data, part):
            assert translate(source, genders) == target


def test_no_sentence_comes_twice_in_any_part(data):
    whole = np.concatenate([part.tokens[:, : data.source_length] for part in data.parts])
    assert [len(part.tokens) for part in data.parts] == list(SIZES)
    assert len(np.unique(whole, axis=0)) == sum(SIZES)


def test_sequences_are_sources_and_what_goes_on(data):
    for tokens, labels in data.parts:
        assert tokens.dtype == labels.dtype == np.int32
        assert tokens.max() < len(data.words)
        source, start = tokens[:, : data.source_length], tokens[:, data.source_length]
        assert (start == BEGIN).all()
        np.testing.assert_array_equal(tokens[:, data.source_length + 1 :], labels[:, :-1])
        assert ((labels == END).sum(1) == 1).all()
        for sequence in (source, labels):  # words first, then filling and no more words
            filling = sequence == PAD
            assert (filling[:, 1:] >= filling[:, :-1]).all()
        ends = (labels != PAD).sum(1) - 1
        assert (labels[np.arange(len(labels)), ends] == END).all()
        # The two languages share no word.
        assert not np.intersect1d(source[source != PAD], labels[labels != PAD]).size


def test_all_words_are_used_and_sentences_are_of_all_kinds(data):
    tokens, labels = data.parts[0]
    used = np.union1d(tokens, labels)
    assert len(used) == len(data.words) == len(set(data.words))
    lengths = (labels != PAD).sum(1)
    assert lengths.min() == 7  # article, noun twice, OBJ, verb and END: two adjectives less
    assert lengths.max() == labels.shape[1] == 11


def test_every_sentence_there_is_can_be_drawn():
    small = Lexicon(nouns=1, adjectives=0, verbs=1)
    assert small.meanings == (2 * 1 * 1 * 2) ** 2 * 1 * 2 * 2 == 64
    data = translations(jax.random.key(0), (60, 4), lexicon=small)
    whole = np.concatenate([part.tokens for part in data.parts])
    assert len(np.unique(whole, axis=0)) == 64
    with pytest.raises(ValueError, match=r"at most 64, .* got \(60, 5\)"):
        translations(jax.random.key(0), (60, 5), lexicon=small)
    with pytest.raises(ValueError, match=r"must be positive .* got \(3, 0\)"):
        translations(jax.random.key(0), (3, 0))


def test_the_key_decides(data):
    again, other = (translations(jax.random.key(i), SIZES) for i in (3, 4))
    for one, same in zip(data.parts, again.parts, strict=True):
        np.testing.assert_array_equal(one.tokens, same.tokens)
        np.testing.assert_array_equal(one.labels, same.labels)
    assert not np.array_equal(other.parts[0].tokens, data.parts[0].tokens)
