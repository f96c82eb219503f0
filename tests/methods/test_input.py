"""Methods on the input keep their contract. Oracles: sizes, rows of the embedding."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bigpeft.errors import RecipeError
from bigpeft.methods import InputMethod, ModelInput, PrefixMethod, PromptMethod, methods

CASES: list[tuple[str, dict[str, Any]]] = [
    ("prompt_tuning", {}),
    ("prompt_tuning", {"init": "random"}),
    ("prompt_tuning", {"init": "text", "text": "yes or no"}),
    ("p_tuning", {}),
    ("p_tuning", {"encoder_hidden_size": 7}),
    ("p_tuning", {"encoder": "lstm"}),
    ("p_tuning", {"encoder": "lstm", "encoder_layers": 1, "encoder_hidden_size": 5}),
    ("p_tuning", {"encoder": "lstm", "encoder_layers": 3, "dropout": 0.5}),
    ("prefix_tuning", {}),
    ("prefix_tuning", {"init": "zero"}),
    ("prefix_tuning", {"projection": True}),
    ("prefix_tuning", {"projection": True, "init": "zero", "encoder_hidden_size": 9}),
]
CPU = torch.device("cpu")
SEAT = ModelInput("input", 12, layers=3, key_value_heads=2, head_dim=4, vocabulary=30, device=CPU)


def build(name: str, seat: ModelInput = SEAT, seed: int = 1, **options: Any) -> InputMethod:
    """A method at its start, before it has seen any embedding."""
    method = methods()[name]
    built = method(seat, method.Options(**options))
    torch.manual_seed(seed)
    built.reset()
    return built


def test_these_are_all_methods_on_the_input():
    assert {name for name, _ in CASES} == {
        name for name, m in methods().items() if issubclass(m, InputMethod)
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_outputs_have_the_shape_of_their_seat_and_every_parameter_has_a_gradient(
    name, options, dtype
):
    method = build(name, length=5, **options).to(dtype)
    if options.get("init") == "zero":
        torch.nn.init.normal_(list(method.parameters())[-2 if "projection" in options else 0])

    made = method()
    made.square().sum().backward()

    shape = (5, 12) if isinstance(method, PromptMethod) else (3, 2, 2, 5, 4)
    assert isinstance(method, PromptMethod | PrefixMethod)
    assert (tuple(made.shape), made.dtype, method.length) == (shape, dtype, 5)
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_state_round_trips(name, options):
    one, other = build(name, **options), build(name, seed=2, **options)

    other.load_state_dict(one.state_dict())

    assert torch.equal(other.eval()(), one.eval()())


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_start_is_a_function_of_the_seed_alone(name, options):
    one, same, other = (build(name, seed=seed, **options) for seed in (1, 1, 2))

    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[key])
    if options != {"init": "zero"}:
        assert any(not torch.equal(t, other.state_dict()[k]) for k, t in one.state_dict().items())


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_skeleton_on_the_meta_device_fills_as_the_loader_fills_it(name, options):
    on_meta = ModelInput("input", 12, 3, 2, 4, 30, torch.device("meta"))
    method = methods()[name](on_meta, methods()[name].Options(**options))
    devices = {tensor.device.type for tensor in method.state_dict(keep_vars=True).values()}

    method.to_empty(device="cpu")
    torch.manual_seed(1)
    method.reset()

    assert devices == {"meta"}
    assert torch.equal(method.eval()(), build(name, **options).eval()())


@settings(max_examples=80, deadline=None)
@given(
    case=st.sampled_from(CASES),
    length=st.integers(1, 9),
    hidden_size=st.integers(1, 20),
    layers=st.integers(1, 4),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 6),
)
def test_the_count_is_that_of_its_parameters(case, length, hidden_size, layers, heads, head_dim):
    name, options = case
    seat = ModelInput("input", hidden_size, layers, heads, head_dim, 30, CPU)
    method = build(name, seat, length=length, **options)

    count = type(method).count(type(method).Options(length=length, **options), seat)

    assert count == sum(p.numel() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_only_the_matrices_of_encoders_are_decayed(name, options):
    method = build(name, **options)

    decayed = {key for key, _ in method.named_parameters() if method.role(key).decay}

    matrices = {key for key, p in method.named_parameters() if "head" in key or "transform" in key}
    assert decayed == {key for key in matrices if "weight" in key}
    assert not any("bias" in key for key in decayed)


def test_a_projection_learns_at_a_tenth_of_the_rate():
    for projection, scale in ((False, 1.0), (True, 0.1)):
        method = build("prefix_tuning", projection=projection)
        scales = {method.role(key).learning_rate_scale for key, _ in method.named_parameters()}
        assert scales == {scale}


def test_a_prompt_starts_as_rows_of_the_embedding_as_it_is_in_the_file():
    embedding = torch.randn(30, 12, dtype=torch.bfloat16)
    drawn, twice, other = (build("prompt_tuning", length=40, seed=seed) for seed in (1, 1, 2))

    with torch.no_grad():
        kept = [method.start(embedding) for method in (drawn, twice, other)]

    assert all(tensor is embedding for tensor in kept)
    assert torch.equal(drawn(), embedding[list(drawn.drawn)].float())
    assert torch.equal(drawn(), twice())
    assert not torch.equal(drawn(), other())
    assert len(set(drawn.drawn)) > 15


@pytest.mark.parametrize(
    ("length", "expected"), [(2, [7, 3]), (3, [7, 3, 9]), (8, [7, 3, 9, 7, 3, 9, 7, 3])]
)
def test_a_prompt_of_a_text_repeats_or_cuts_its_tokens(length, expected):
    embedding = torch.randn(30, 12)
    method = build("prompt_tuning", length=length, init="text", text="some words")
    method.tokens = (7, 3, 9)

    with torch.no_grad():
        method.start(embedding)

    assert method.text == "some words"
    assert torch.equal(method(), embedding[expected])


def test_a_prompt_that_starts_at_random_is_small_and_needs_no_embedding():
    method = build("prompt_tuning", length=500, init="random")

    assert not method.needs_dense
    assert build("prompt_tuning").needs_dense
    assert abs(method().std().item() - 0.02) < 1e-3


def test_a_prefix_of_zeros_is_zero_with_and_without_projection():
    for options in ({}, {"projection": True}):
        assert not build("prefix_tuning", init="zero", **options)().any()
        assert build("prefix_tuning", **options)().any()


def test_a_prefix_that_starts_at_random_is_small():
    assert abs(build("prefix_tuning", length=50)().std().item() - 0.02) < 1e-3


def test_a_prefix_whose_tokens_start_and_stay_alike_tells_so():
    alike = build("prefix_tuning", init="zero").remark()

    assert "20 virtual tokens start alike" in (alike or "")
    for options in ({}, {"init": "zero", "projection": True}, {"init": "zero", "length": 1}):
        assert build("prefix_tuning", **options).remark() is None


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("prompt_tuning", {"init": "text"}, "method.text"),
        ("prompt_tuning", {"init": "text", "text": " "}, "method.text"),
        ("prompt_tuning", {"text": "some words"}, "method.text"),
        ("p_tuning", {"encoder_layers": 3}, "method.encoder_layers"),
        ("p_tuning", {"dropout": 0.1}, "method.dropout"),
        ("p_tuning", {"encoder": "lstm", "encoder_layers": 1, "dropout": 0.1}, "method.dropout"),
        ("prefix_tuning", {"encoder_hidden_size": 7}, "method.encoder_hidden_size"),
    ],
)
def test_options_without_effect_or_without_a_text_are_refused(name, options, key):
    with pytest.raises(RecipeError) as caught:
        build(name, **options)

    assert caught.value.what == key


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_no_virtual_tokens_are_refused(name):
    with pytest.raises(ValidationError, match="greater than 0"):
        build(name, length=0)
