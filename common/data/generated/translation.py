"""Sentences of one small language with their translations into another, made by rule.

    data = translations(keys.data, (8000, 500, 1000))    # training, validation, test: disjoint
    data.parts[0].tokens, data.parts[0].labels           # for a network that continues sequences
    data.words                                           # what the tokens stand for

The two languages differ as follows. In the second the verb comes last; the adjective follows its
noun and agrees with it in gender and number, as the article does; a definite object comes first,
the object is marked, and verbs agree with their subject. The network has to learn the gender of
each noun. Every sentence has exactly one translation, so a perfect score is possible.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from common.seeds import host_generator

PAD, BEGIN, END = 0, 1, 2
"""Tokens that fill up a sequence, begin a translation, and end it."""


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """How many words of each kind both languages have."""

    nouns: int = 12
    adjectives: int = 6
    verbs: int = 6

    @property
    def meanings(self) -> int:
        """How many different sentences there are."""
        return math.prod(self.radices)

    @property
    def radices(self) -> tuple[int, ...]:
        """How many values each feature of a sentence takes, in the order of `Meanings`."""
        phrase = (2, self.adjectives + 1, self.nouns, 2)
        return (*phrase, *phrase, self.verbs, 2, 2)


class Phrases(NamedTuple):
    """Noun phrases; integer, [n] each."""

    definite: np.ndarray
    adjective: np.ndarray
    """From 0; the last number, how many there are, is none at all."""
    noun: np.ndarray
    plural: np.ndarray


class Meanings(NamedTuple):
    """What sentences say; integer, [n] each."""

    subject: Phrases
    object: Phrases
    verb: np.ndarray
    past: np.ndarray
    negated: np.ndarray


class Sentences(NamedTuple):
    """Sequences to be continued, example by example."""

    tokens: np.ndarray
    """int32, [n, S + T]: a sentence filled up to S tokens, BEGIN, and its translation but for the
    last of T tokens."""
    labels: np.ndarray
    """int32, [n, T]: the translation, END, and PAD, which is not scored. They are the tokens that
    follow those from position S on."""


class Translations(NamedTuple):
    """Parts of a parallel corpus, and its vocabulary."""

    parts: tuple[Sentences, ...]
    words: tuple[str, ...]
    """What each token stands for."""

    @property
    def source_length(self) -> int:
        """S: where BEGIN stands."""
        tokens, labels = self.parts[0]
        return tokens.shape[1] - labels.shape[1]


def translations(
    key: jax.Array, sizes: Sequence[int], *, lexicon: Lexicon | None = None
) -> Translations:
    """Draws distinct sentences, translates them, and divides them into parts.

    Args:
        key: a typed PRNG key, scalar; draws genders and sentences.
        sizes: how many sentences each part gets. No sentence is in two parts, or twice in one.
        lexicon: how many words there are; None for `Lexicon()`.

    Returns:
        The parts, and the words.

    Raises:
        ValueError: if there are fewer sentences than asked for, or a size is not positive.

    Example:
        >>> data = translations(jax.random.key(0), (2, 1))
        >>> data.parts[0].tokens.shape, data.parts[0].labels.shape
        ((2, 22), (2, 11))
        >>> sentence = data.parts[1].tokens[0, : data.source_length]
        >>> " ".join(data.words[i] for i in sentence if i != PAD)
        'a adj3 noun10 -s verb2 a adj2 noun7 -s'
        >>> " ".join(data.words[i] for i in data.parts[1].labels[0] if i != PAD)
        'EIN.m1 NOUN10 ADJ3.m1 EIN.f1 NOUN7 ADJ2.f1 OBJ VERB2.1 END'
    """
    lexicon = lexicon or Lexicon()
    total = sum(sizes)
    if not sizes or min(sizes) < 1 or total > lexicon.meanings:
        raise ValueError(
            f"sizes must be positive and sum to at most {lexicon.meanings}, the number of distinct "
            f"sentences, got {tuple(sizes)}; a larger lexicon has more."
        )
    generator = host_generator(key)
    feminine = generator.permutation(np.arange(lexicon.nouns) % 2)
    drawn = generator.choice(lexicon.meanings, total, replace=False)
    meanings = _meanings(drawn, lexicon)
    words = _Words(lexicon)
    source = _moved_together(_source(meanings, words))
    labels = _moved_together(_target(meanings, words, feminine))
    # What the network sees before each label: BEGIN before the first, then the label before it.
    tokens = np.c_[source, np.full(total, BEGIN, np.int32), labels[:, :-1]]
    bounds = np.cumsum([0, *sizes])
    parts = tuple(
        Sentences(tokens[low:high], labels[low:high]) for low, high in itertools.pairwise(bounds)
    )
    return Translations(parts, tuple(words.names))


_ABSENT = -1


class _Words:
    """The vocabulary, kind by kind; each attribute is the token of a kind's first word."""

    def __init__(self, lexicon: Lexicon):
        self.names = ["PAD", "BEGIN", "END"]
        numbers = range(2)
        self.article = self._add(["a", "the"])
        self.adjective = self._add(f"adj{i}" for i in range(lexicon.adjectives))
        self.noun = self._add(f"noun{i}" for i in range(lexicon.nouns))
        self.verb = self._add(f"verb{i}" for i in range(lexicon.verbs))
        self.plural, self.past, self.negation = (self._add([w]) for w in ("-s", "did", "not"))
        genders = ("m", "f")
        self.their_article = self._add(
            f"{article}.{g}{n}" for article in ("EIN", "DER") for g in genders for n in numbers
        )
        self.their_adjective = self._add(
            f"ADJ{i}.{g}{n}" for i in range(lexicon.adjectives) for g in genders for n in numbers
        )
        self.their_noun = self._add(f"NOUN{i}" for i in range(lexicon.nouns))
        self.their_verb = self._add(f"VERB{i}.{n}" for i in range(lexicon.verbs) for n in numbers)
        self.marker, self.their_past, self.their_negation = (
            self._add([w]) for w in ("OBJ", "PAST", "NEG")
        )
        self.no_adjective = lexicon.adjectives

    def _add(self, names: Iterable[str]) -> int:
        first = len(self.names)
        self.names += names
        return first


def _meanings(numbers: np.ndarray, lexicon: Lexicon) -> Meanings:
    """The features of sentences, the digits of their numbers in a system of mixed radices."""
    features = np.unravel_index(numbers, lexicon.radices)
    return Meanings(Phrases(*features[:4]), Phrases(*features[4:8]), *features[8:])


def _source(meanings: Meanings, words: _Words) -> np.ndarray:
    """Subject, tense, negation, verb, object; [n, slots], some of them absent."""

    def phrase(p: Phrases) -> list[np.ndarray]:
        return [
            words.article + p.definite,
            _if(p.adjective != words.no_adjective, words.adjective + p.adjective),
            words.noun + p.noun,
            _if(p.plural, words.plural),
        ]

    slots = [
        *phrase(meanings.subject),
        _if(meanings.past, words.past),
        _if(meanings.negated, words.negation),
        words.verb + meanings.verb,
        *phrase(meanings.object),
    ]
    return np.stack(slots, axis=1)


def _target(meanings: Meanings, words: _Words, feminine: np.ndarray) -> np.ndarray:
    """Subject and object, a definite object first; verb, tense, negation, END."""

    def phrase(p: Phrases) -> np.ndarray:
        # Words that agree have four forms each, by gender and number.
        form = 2 * feminine[p.noun] + p.plural
        adjective = words.their_adjective + 4 * p.adjective + form
        slots = [
            words.their_article + 4 * p.definite + form,
            words.their_noun + p.noun,
            _if(p.adjective != words.no_adjective, adjective),
        ]
        return np.stack(slots, axis=1)

    n = len(meanings.verb)
    subject = phrase(meanings.subject)
    object_ = np.c_[phrase(meanings.object), np.full(n, words.marker)]
    object_first = meanings.object.definite[:, None] == 1
    verb = [
        words.their_verb + 2 * meanings.verb + meanings.subject.plural,
        _if(meanings.past, words.their_past),
        _if(meanings.negated, words.their_negation),
        np.full(n, END),
    ]
    phrases = np.where(object_first, np.c_[object_, subject], np.c_[subject, object_])
    return np.c_[phrases, np.stack(verb, axis=1)]


def _if(condition: np.ndarray, word: np.ndarray | int) -> np.ndarray:
    """A word where the condition holds, and none elsewhere."""
    return np.where(condition, word, _ABSENT)


def _moved_together(slots: np.ndarray) -> np.ndarray:
    """Words moved to the left past absent ones, and PAD behind them."""
    order = np.argsort(slots == _ABSENT, axis=1, kind="stable")
    moved = np.take_along_axis(slots, order, axis=1)
    return np.where(moved == _ABSENT, PAD, moved).astype(np.int32)
