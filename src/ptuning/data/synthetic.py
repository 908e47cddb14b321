"""GLUE look-alikes from one small grammar: no download, the same rows for the same seed, any size.

A *scene* is five facts (who, did, how, what, where). All tasks but SST-2 and WNLI put scenes into sentences;
the label is what was changed between them. A fact is only ever exchanged for one whose words have the same
lengths, and templates, synonyms and the number of changes are drawn without regard to the label, so that
neither the lengths nor one text of a pair alone tell the label. Scores on this data compare with no published
number: it is there for tests, examples and trying a configuration out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from types import MappingProxyType

from ptuning.data.table import Table
from ptuning.errors import DataError, nearest
from ptuning.tasks.glue import Task

SIZES: Mapping[str, int] = MappingProxyType({"train": 2000, "validation": 500, "test": 500})
"""Default number of rows per kind of split."""

Fact = tuple[str, ...]  # the forms of one word; of an action: past tense, its synonym, base form, its synonym
Scene = Mapping[str, Fact]  # slot → fact


def _facts(words: str) -> tuple[Fact, ...]:
    return tuple(tuple(word.split("/")) for word in words.split())


# Kind of word → its words. Kinds that stand in for each other (colour and material, city and time, positive
# and negative) hold the same number of words of every length: choosing between them changes no length.
_KINDS: Mapping[str, tuple[Fact, ...]] = {
    "woman": _facts("Anna Emma Lucy Mary Jane Kate Rose Sara"),
    "man": _facts("Paul Mark John Jack Adam Luke Fred Carl"),
    "action": _facts(
        "found/located/find/locate saved/rescued/save/rescue loved/admired/love/admire "
        "moved/shifted/move/shift wiped/cleaned/wipe/clean liked/enjoyed/like/enjoy"
    ),
    "colour": _facts("blue pink gray black white green brown yellow purple orange violet"),
    "material": _facts("iron jade clay steel glass stone brass wooden silver bronze marble"),
    "thing": _facts("lamp desk vase door boat bike ring drum coat sofa chair table clock phone piano knife"),
    "city": _facts("Rome Oslo Paris Tokyo London Berlin Madrid Vienna"),
    "time": _facts("June July April March winter summer autumn spring"),
    "deed": _facts("called helped thanked visited missed joined warned trusted"),
    "feeling": _facts("kind late sick glad lost busy tired lonely angry hungry"),
    "part": _facts("plot cast story score script ending finale setting"),
    "turn": _facts("truly quite never"),
    "positive": _facts(
        "good fine warm great funny smart fresh superb clever lively moving amazing magical perfect elegant "
        "charming gripping original touching wonderful brilliant memorable enjoyable"
    ),
    "negative": _facts(
        "dull poor weak awful silly bland stale boring clumsy stupid dismal foolish shallow useless painful "
        "terrible horrible pathetic lifeless pointless miserable worthless dangerous"
    ),
}
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "who": ("woman", "man"),
    "did": ("action",),
    "how": ("colour", "material"),
    "what": ("thing",),
    "where": ("city", "time"),
}
# How much of the meaning a fact carries, in STS-B points; together five.
_WEIGHTS: Mapping[str, float] = {"who": 0.9, "did": 1.2, "how": 0.6, "what": 1.5, "where": 0.8}

_STATEMENTS = (
    "{who} {did} the {how} {what} in {where} .",
    "in {where} {who} {did} the {how} {what} .",
    "the {how} {what} was {did} by {who} in {where} .",
)
_SUMMARIES = (
    "{who} {did} the {how} {what} .",
    "{who} {did} the {what} in {where} .",
    "the {how} {what} was {did} in {where} .",
)
_REQUESTS = (
    "how can I {do} the {how} {what} in {where} ?",
    "what is the best way to {do} the {how} {what} in {where} ?",
    "how do people in {where} {do} the {how} {what} ?",
)
_QUESTIONS = (
    "who {did} the {how} {what} in {where} ?",
    "which {what} was {did} by {who} in {where} ?",
    "where was the {how} {what} {did} by {who} ?",
    "when was the {how} {what} {did} by {who} ?",
)
_ANSWERS = {"where": "city", "when": "time"}  # what the slot "where" must hold to answer these
_JUDGED = (
    *_STATEMENTS,
    "{who} has {did} the {how} {what} in {where} .",
    "{who} said that she {did} the {how} {what} .",
    "{who} said that they {did} the {how} {what} .",
    "the {how} {what} was {did} by her in {where} .",
    "the {how} {what} was {did} by them in {where} .",
)
_MISUSED = {"was": "has", "has": "was", "she": "her", "her": "she", "they": "them", "them": "they"}
_REVIEWS = (
    "the {part} is {turn} {first} and the {other} is {second} .",
    "a {turn} {first} film whose {part} is {second} .",
    "the {part} and the {other} are {turn} {first} .",
    "I found the {part} {turn} {first} and the {other} {second} .",
)
_SCHEMAS = (
    "{woman} {deed} {man} because {pronoun} was {feeling} .",
    "{man} {deed} {woman} because {pronoun} was {feeling} .",
    "{woman} {deed} {man} when {pronoun} was {feeling} .",
    "{man} {deed} {woman} when {pronoun} was {feeling} .",
)
_RESOLVED = "{meant} was {feeling} ."
_PRONOUNS = {"woman": "she", "man": "he"}


def _prose(words: Sequence[str]) -> str:
    """Return words as a sentence: a capital at the start, no space before punctuation."""
    text = re.sub(r" ([.?])", r"\1", " ".join(words))
    return text[0].upper() + text[1:]


def _words(rng: Random, template: str, scene: Scene) -> list[str]:
    """Return a scene in words, with the synonym of the action half of the time."""
    forms = {slot: fact[0] for slot, fact in scene.items()}
    synonym = rng.randrange(2)
    forms |= {"did": scene["did"][synonym], "do": scene["did"][2 + synonym]}
    return template.format_map(forms).split()


def _say(rng: Random, template: str, scene: Scene) -> str:
    return _prose(_words(rng, template, scene))


def _kind(fact: Fact) -> str:
    return next(kind for kind, facts in _KINDS.items() if fact in facts)


def _scene(rng: Random) -> Scene:
    return {slot: rng.choice(_KINDS[rng.choice(kinds)]) for slot, kinds in _SLOTS.items()}


def _other(rng: Random, fact: Fact, kind: str) -> Fact:
    """Return another fact of ``kind``, drawn among those with forms as long as those of ``fact``."""
    lengths = [len(form) for form in fact]
    return rng.choice([other for other in _KINDS[kind] if other != fact and [*map(len, other)] == lengths])


def _changed(rng: Random, scene: Scene, slots: Sequence[str]) -> Scene:
    """Return a scene with the facts in ``slots`` exchanged for others of the same kind and length."""
    return {**scene, **{slot: _other(rng, scene[slot], _kind(scene[slot])) for slot in slots}}


def _switched(rng: Random, scene: Scene, slot: str) -> Scene:
    """Return a scene with the fact in ``slot`` exchanged for the slot's other kind: a colour for a material."""
    here = _kind(scene[slot])
    there = next(kind for kind in _SLOTS[slot] if kind != here)
    return {**scene, slot: _other(rng, scene[slot], there)}


def _mentioned(template: str, among: Sequence[str] = tuple(_SLOTS)) -> list[str]:
    """Return the slots that a template puts into words."""
    return [slot for slot in among if f"{{{slot}}}" in template.replace("{do}", "{did}")]


def _some(rng: Random, slots: Sequence[str]) -> list[str]:
    """Return one or two of ``slots``, drawn at random."""
    return rng.sample(slots, rng.randint(1, 2))


def _restated(same: str, first: Sequence[str], second: Sequence[str], rng: Random, label: str) -> tuple[str, ...]:
    """Return two texts on one scene if the label is ``same``, else on two that differ in facts of both texts."""
    one = rng.choice(first)
    two = rng.choice([template for template in second if template != one])
    scene = _scene(rng)
    changed = _changed(rng, scene, _some(rng, _mentioned(two)))
    return _say(rng, one, scene), _say(rng, two, scene if label == same else changed)


def _nli(rng: Random, label: str) -> tuple[str, ...]:
    """Return premise and hypothesis: a kept fact is entailed, one of its kind contradicts, of the other is neutral."""
    one, two = rng.choice(_STATEMENTS), rng.choice(_SUMMARIES)
    scene, slot = _scene(rng), rng.choice(_mentioned(two, ("how", "where")))
    about = {
        "entailment": scene,
        "neutral": _switched(rng, scene, slot),
        "contradiction": _changed(rng, scene, [slot]),
    }
    return _say(rng, one, scene), _say(rng, two, about[label])


def _qnli(rng: Random, label: str) -> tuple[str, ...]:
    """Return question and sentence, which answers, tells the time instead of the place, or is about another scene."""
    question = rng.choice(_QUESTIONS)
    scene = _scene(rng)
    answer = _ANSWERS.get(question.split()[0])
    if answer and _kind(scene["where"]) != answer:
        scene = _switched(rng, scene, "where")
    about = scene
    if label == "not_entailment" and answer and rng.random() < 0.5:
        about = _switched(rng, scene, "where")
    elif label == "not_entailment":
        about = _changed(rng, scene, _some(rng, _mentioned(question)))
    return _say(rng, question, scene), _say(rng, rng.choice(_STATEMENTS), about)


def _wnli(rng: Random, label: str) -> tuple[str, ...]:
    """Return two texts in which a pronoun's gender decides whom it means."""
    people = {kind: rng.choice(_KINDS[kind])[0] for kind in _PRONOUNS}
    feeling, deed = rng.choice(_KINDS["feeling"])[0], rng.choice(_KINDS["deed"])[0]
    meant, other = rng.sample(sorted(_PRONOUNS), 2)
    first = rng.choice(_SCHEMAS).format(**people, deed=deed, pronoun=_PRONOUNS[meant], feeling=feeling)
    second = _RESOLVED.format(meant=people[meant if label == "entailment" else other], feeling=feeling)
    return _prose(first.split()), _prose(second.split())


def _cola(rng: Random, label: str) -> tuple[str, ...]:
    """Return a sound sentence, or one with two words in the wrong order or a word in the wrong form."""
    words = _words(rng, rng.choice(_JUDGED), _scene(rng))
    at = rng.choice([i for i, word in enumerate(words) if word in ("the", "in", "by") or word in _MISUSED])
    if label == "unacceptable":
        if words[at] in _MISUSED:
            words[at] = _MISUSED[words[at]]
        else:
            words[at : at + 2] = reversed(words[at : at + 2])
    return (_prose(words),)


def _sst2(rng: Random, label: str) -> tuple[str, ...]:
    """Return one or two judgements of one sentiment; the first may be a denial of the opposite."""
    opposite = {"positive": "negative", "negative": "positive"}[label]
    part, other = (fact[0] for fact in rng.sample(_KINDS["part"], 2))
    turn = rng.choice(_KINDS["turn"])[0]
    first = rng.choice(_KINDS[opposite if turn == "never" else label])[0]
    second = rng.choice(_KINDS[label])[0]
    review = rng.choice(_REVIEWS).format(part=part, other=other, turn=turn, first=first, second=second)
    return (_prose(review.split()),)


def _stsb(rng: Random) -> tuple[tuple[str, ...], float]:
    """Return two scenes with any number of facts in common, and the weight of those facts."""
    scene = _scene(rng)
    changed = rng.sample(list(_SLOTS), rng.randint(0, len(_SLOTS)))
    one, two = rng.sample(_STATEMENTS, 2)
    score = sum(weight for slot, weight in _WEIGHTS.items() if slot not in changed)
    return (_say(rng, one, scene), _say(rng, two, _changed(rng, scene, changed))), round(float(score), 2)


_ROWS: Mapping[str, Callable[[Random, str], tuple[str, ...]]] = {
    "cola": _cola,
    "sst2": _sst2,
    "mrpc": partial(_restated, "equivalent", _STATEMENTS, _STATEMENTS),
    "qqp": partial(_restated, "duplicate", _REQUESTS, _REQUESTS),
    "mnli": _nli,
    "qnli": _qnli,
    "rte": partial(_restated, "entailment", _STATEMENTS, _SUMMARIES),
    "wnli": _wnli,
    "ax": _nli,
}


def generate(task: Task, split: str, size: int, seed: int) -> Table:
    """Return one generated split of a task's look-alike.

    Parameters
    ----------
    task
        Any of :data:`ptuning.tasks.glue.TASKS`.
    split
        ``"train"``, or a key of ``task.validation`` or ``task.test``. Each has a random stream of its own.
    size
        Number of rows. Classes are balanced to within one row.
    seed
        The same seed gives the same rows, on every machine.

    Returns
    -------
    Table
        Texts, and class ids or scores from 0 to 5; no labels for a test split.

    Raises
    ------
    DataError
        If the task has no such split, or ``size`` is less than one.
    """
    splits = [*(["train"] if task.trains else []), *task.validation, *task.test]
    if split not in splits:
        raise DataError(
            f"Synthetic {task.name} has no split '{split}'.{nearest(split, splits)} Splits: {', '.join(splits)}."
        )
    if size < 1:
        raise DataError(f"Synthetic {task.name}, {split}: {size} rows were asked for; ask for 1 or more.")
    rng = Random(f"{task.name}/{split}/{seed}")
    rows: list[tuple[str, ...]]
    labels: list[int] | list[float]
    if task.is_regression:
        scored = [_stsb(rng) for _ in range(size)]
        rows, labels = [texts for texts, _ in scored], [score for _, score in scored]
    else:
        labels = [row % len(task.labels) for row in range(size)]
        rng.shuffle(labels)
        rows = [_ROWS[task.name](rng, task.labels[label]) for label in labels]
    return Table(
        texts=tuple(list(column) for column in zip(*rows, strict=True)),
        labels=None if split in task.test else labels,
        origin=f"synthetic {task.name}, {split}, seed {seed}",
    )


def vocabulary() -> list[str]:
    """Return every lower-case word and punctuation mark of the grammar, sorted."""
    scenes = _STATEMENTS + _SUMMARIES + _REQUESTS + _QUESTIONS + _JUDGED
    fixed = re.sub(r"\{\w+\}", "", " ".join((*scenes, *_REVIEWS, *_SCHEMAS, _RESOLVED))).split()
    forms = [form for facts in _KINDS.values() for fact in facts for form in fact]
    return sorted({word.lower() for word in (*fixed, *forms, *_MISUSED, *_PRONOUNS.values())})
