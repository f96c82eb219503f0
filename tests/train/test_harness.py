"""Questions of lm-evaluation-harness. Oracles: its own Hugging Face model over the same dense
model, and bigpeft's own choice accuracy of the same rows.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="pip install 'bigpeft[harness]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bigpeft.cli.harness import Asked
from bigpeft.data import Reader, Rows, Turn, load_tokenizer
from bigpeft.errors import DataError, FileError, RecipeError
from bigpeft.recipe import load_recipe
from bigpeft.train.evaluation import evaluate
from bigpeft.train.evaluation.read import read_tasks
from bigpeft.train.generation import Generator
from bigpeft.train.harness import Answering, ask, read_harness
from bigpeft.train.harness.wish import wish_of
from bigpeft.train.rows import Preparation
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.backbone.families import saved_model
from tests.train.runs import DEBUG
from tests.worlds import world

TOKENIZER = "recipes/data/debug/tokenizer"
LIMIT = 40  # tokens: some of the texts below are longer
QUESTIONS = 40
WORDS = ["the", "user", "asks", "and", "assistant", "answers", "hello", "world", "it", "is"]


def texts(count: int, words: int) -> list[str]:
    draw = random.Random(words)
    return [" ".join(draw.choices(WORDS, k=1 + number % words)) for number in range(count)]


CHOICES = [*zip(texts(9, 30), [" world", " and", " it is ", "."] * 3, strict=False), ("", "hello")]
WHOLE = [(text,) for text in texts(7, 60)]
GENERATED = [(text, {"until": ["a", "\n\n"], "max_gen_toks": 12}) for text in texts(5, 4)]
GENERATED += [(text, {"until": ["<|never|>"], "max_gen_toks": 9}) for text in texts(3, 5)]


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@dataclass(frozen=True)
class Answers:
    """What one rank was told, and what the two ways to one accuracy gave."""

    choices: list[tuple[float, bool]]
    whole: list[float]
    generated: list[str]
    ours: float
    theirs: Any


def answers_here(model: Path, folder: Path, quiz: Path) -> Answers:
    task = f"{{path: {quiz / 'quiz.jsonl'}, metrics: choice_accuracy, choices_column: options}}"
    recipe = load_recipe(
        DEBUG,
        [
            f"model={{name: {model}, weights: none, tokenizer: {TOKENIZER}}}",
            "data.max_length=64",
            "batch.global_size=6",
            "train.steps=1",
            "optimizer.learning_rate=1e-30",  # nothing is learned: the model stays the dense one
            f"eval={{tasks: {{quiz: {task}}}}}",
            "method={name: lora, rank: 2}",
            f"run.folder={folder}",
        ],
    )
    finished = train(recipe, read_world(), Terminal(speaks=False))
    rows = Preparation(finished.plan, folder, print)
    generator = Generator(finished.engine, rows.tokenizer)
    stop = (rows.tokenizer.eos_token_id,)
    answering = Answering(generator, finished.plan.world, 2, LIMIT, stop)
    tasks = read_harness(["bigpeft_quiz"], quiz, None)
    result = evaluate(generator, read_tasks(finished.plan, rows), 8, finished.plan.world)
    return Answers(
        choices=answering.loglikelihood(requests("loglikelihood", CHOICES)),
        whole=answering.loglikelihood_rolling(requests("loglikelihood_rolling", WHOLE)),
        generated=answering.generate_until(requests("generate_until", GENERATED)),
        ours=result.figures["quiz"]["choice_accuracy"].value,
        theirs=ask(tasks, answering, None, chat=False)["bigpeft_quiz"]["acc"],
    )


@pytest.fixture(scope="module")
def quiz(tmp_path_factory) -> Path:
    """Rows of bigpeft and of a task of the harness at once, and the task."""
    folder = tmp_path_factory.mktemp("quiz")
    reader = Reader(Rows(()), load_tokenizer(TOKENIZER))
    draw = random.Random(0)
    lines = []
    for number in range(QUESTIONS):
        options = [str(draw.randrange(100, 1000)) for _ in range(3)]
        right = draw.randrange(3)
        asked = f"{' '.join(draw.choices(WORDS, k=3))} {number}?"
        drafts = [
            reader.chat.draft([Turn("user", asked), Turn("assistant", option)])
            for option in options
        ]
        start, end = drafts[0].spans[-1]
        messages = [("user", asked), ("assistant", options[right])]
        row = {
            "messages": [{"role": role, "content": text} for role, text in messages],
            "options": options,
            "context": drafts[0].text[:start],
            "endings": [draft.text[start:end] for draft in drafts],
            "right": right,
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "quiz.jsonl").write_text("".join(lines))
    (folder / "quiz.yaml").write_text(
        "task: bigpeft_quiz\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'quiz.jsonl'}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{context}}"\n'
        'doc_to_choice: "{{endings}}"\n'
        "doc_to_target: right\n"
        'target_delimiter: ""\n'
        "metric_list: [{metric: acc}]\n"
    )
    return folder


@pytest.fixture(scope="module")
def answered(quiz, tmp_path_factory) -> tuple[Any, dict[int, Answers]]:
    folder = tmp_path_factory.mktemp("model")
    dense = saved_model("llama", folder, vocab_size=384)
    found = {}
    for size in (1, 2):
        told = world(size).call(answers_here, folder, tmp_path_factory.mktemp("run"), quiz)
        assert all(one == told[0] for one in told)
        found[size] = told[0]
    return dense, found


@pytest.fixture(scope="module")
def theirs(answered) -> tuple[list[tuple[float, bool]], list[float], list[str]]:
    """What the harness's own model answers."""
    model = HFLM(
        pretrained=answered[0],
        tokenizer=load_tokenizer(TOKENIZER),
        backend="causal",
        max_length=LIMIT - 1,
        batch_size=1,
    )
    return (
        model.loglikelihood(requests("loglikelihood", CHOICES), disable_tqdm=True),
        model.loglikelihood_rolling(requests("loglikelihood_rolling", WHOLE), True),
        model.generate_until(requests("generate_until", GENERATED), disable_tqdm=True),
    )


@pytest.mark.parametrize("size", [1, 2])
def test_likelihoods_and_answers_are_those_of_the_harness_s_own_model(size, answered, theirs):
    likelihoods, whole, generated = theirs

    mine = answered[1][size]
    assert [one for one, _ in mine.choices] == pytest.approx([one for one, _ in likelihoods], 1e-5)
    assert [greedy for _, greedy in mine.choices] == [greedy for _, greedy in likelihoods]
    assert mine.whole == pytest.approx(whole, rel=1e-5)
    assert mine.generated == generated
    assert any("a" not in text for text in generated)


@pytest.mark.parametrize("size", [1, 2])
def test_an_accuracy_is_bigpeft_s_own_of_the_same_rows(size, answered):
    _, found = answered

    assert found[size].theirs.value == found[size].ours
    assert 0 < found[size].ours < 1
    assert found[size].theirs.rows == QUESTIONS
    assert found[size].theirs.stderr > 0


def test_a_task_that_is_not_there_is_told_with_its_like(quiz, tmp_path):
    with pytest.raises(RecipeError, match=r"--harness bigpeft_quis: .*\n.*mean bigpeft_quiz"):
        read_harness(["bigpeft_quis"], quiz, None)
    with pytest.raises(FileError, match="is no folder of tasks"):
        read_harness(["bigpeft_quiz"], tmp_path / "nowhere", None)


def test_a_task_whose_rows_are_not_there_is_told(quiz, tmp_path):
    text = (quiz / "quiz.yaml").read_text()
    (tmp_path / "quiz.yaml").write_text(text.replace("quiz.jsonl", "nowhere.jsonl"))

    with pytest.raises(DataError, match=r"--harness bigpeft_quiz: cannot be loaded \(.*nowhere"):
        read_harness(["bigpeft_quiz"], tmp_path, None)


def test_what_cannot_be_generated_is_refused_and_what_changes_nothing_is_not():
    wish = wish_of({"until": "\n", "num_beams": 1, "top_k": 5, "max_new_tokens": 8}, "t", 40, (2,))

    assert (wish.sampling.until, wish.sampling.temperature, wish.room) == (("\n",), 0.0, 32)
    assert wish_of({"do_sample": True}, "t", 400, ()).sampling.temperature == 1.0
    for asked, why in [
        ({"num_beams": 4}, "wish for num_beams, which bigpeft does not do"),
        ({"do_sample": True, "top_k": 5}, "wish for top_k"),
        ({"max_gen_toks": 40}, "wish for answers of 40 tokens, and the model takes 40"),
    ]:
        with pytest.raises(DataError, match=f"generation_kwargs of the task t: {why}"):
            wish_of(asked, "t", 40, ())


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)

    with pytest.raises(RecipeError, match=r"pip install 'bigpeft\[harness\]'"):
        Asked(("hellaswag",), None, None, None, None, False).check(beside_task=False)
