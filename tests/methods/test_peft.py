"""Oracle: HF peft. The same numbers in, the same outputs and gradients out."""

from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lokr.layer import factorization
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.backbone import PackedLinear
from bigpeft.methods import LinearMethod, Step
from bigpeft.methods.extension.adalora import AdaLoRA
from bigpeft.methods.extension.fourierft import shuffled
from bigpeft.methods.extension.lokr import split
from bigpeft.methods.reconstruction.boft import butterfly
from tests.oracles.dense import build, nudge, packed, random_weight, seated
from tests.oracles.step import Alone


class OneLinear(nn.Module):
    """peft wants a model around a layer."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.q_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.q_proj.weight = nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)


def peft_layer(weight: torch.Tensor, config: peft.PeftConfig) -> nn.Module:
    return peft.get_peft_model(OneLinear(weight), config).base_model.model.q_proj


@pytest.mark.parametrize(("name", "rslora"), [("lora", False), ("rslora", True)])
def test_lora_equals_peft(name, rslora):
    linear, weight = packed((24, 16))
    method = nudge(build(name, linear, weight, rank=4, alpha=10))
    config = peft.LoraConfig(r=4, lora_alpha=10, use_rslora=rslora, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.lora_A.default.weight.data.copy_(method.lora_A)
    theirs.lora_B.default.weight.data.copy_(method.lora_B)
    x = torch.randn(5, 16)

    ours, expected = method(linear, x), theirs(x)
    ours.square().sum().backward()
    expected.square().sum().backward()

    assert_close(ours, expected)
    assert_close(method.lora_A.grad, theirs.lora_A.default.weight.grad)
    assert_close(method.lora_B.grad, theirs.lora_B.default.weight.grad)


@pytest.mark.parametrize("feedforward", [True, False])
def test_ia3_equals_peft_on_layers_without_a_bias(feedforward):
    linear, weight = packed((24, 16), name="layer.q_proj")
    ends = ("q_proj",) if feedforward else ()
    method = nudge(build("ia3", linear, weight, feedforward_modules=ends))
    config = peft.IA3Config(
        target_modules=["q_proj"], feedforward_modules=["q_proj"] if feedforward else []
    )
    theirs = peft_layer(weight, config)
    theirs.ia3_l.default.data.copy_((1 + method.scale).view_as(theirs.ia3_l.default))
    x = torch.randn(5, 16)

    ours, expected = method(linear, x), theirs(x)
    ours.square().sum().backward()
    expected.square().sum().backward()

    assert_close(ours, expected)
    assert_close(method.scale.grad, theirs.ia3_l.default.grad.flatten())


def test_ssl_equals_ia3_of_peft_with_every_layer_a_feedforward_layer():
    linear, weight = packed((24, 16))
    method = nudge(build("ssl", linear, weight))
    config = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.ia3_l.default.data.copy_((1 + method.scale_in).view(1, -1))
    x = torch.randn(5, 16)

    assert_close(method(linear, x), theirs(x))
    assert_close(method(linear, x), F.linear(x * (1 + method.scale_in), weight))


def same_step(
    method: LinearMethod, linear: PackedLinear, theirs: nn.Module, pairs: list[tuple[Any, ...]]
) -> None:
    """Outputs and gradients agree; a pair is ours, theirs, and how theirs becomes ours."""
    x = torch.randn(5, linear.in_features)

    ours, expected = method(linear, x), theirs(x)
    ours.square().sum().backward()
    expected.square().sum().backward()

    assert_close(ours, expected)
    for one, other, *convert in pairs:
        gradient = convert[0](other.grad) if convert else other.grad
        scale = max(1.0, gradient.abs().max().item())
        assert_close(one.grad / scale, gradient.view_as(one) / scale, atol=1e-5, rtol=1e-4)


def test_dora_equals_peft():
    linear, weight, method = seated("dora", (24, 16), rank=4, alpha=10)
    nudge(method)
    config = peft.LoraConfig(r=4, lora_alpha=10, use_dora=True, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.lora_A.default.weight.data.copy_(method.lora_A)
    theirs.lora_B.default.weight.data.copy_(method.lora_B)
    magnitude = theirs.lora_magnitude_vector.default.weight
    magnitude.data.add_(method.magnitude)

    same_step(
        method,
        linear,
        theirs,
        [
            (method.lora_A, theirs.lora_A.default.weight),
            (method.lora_B, theirs.lora_B.default.weight),
            (method.magnitude, magnitude),
        ],
    )


def test_pissa_equals_peft_on_dense_weights():
    weight = random_weight((24, 16))
    linear, _ = packed((24, 16), weights="none")
    method = build("pissa", linear, weight, rank=4)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, init_lora_weights="pissa", target_modules=["q_proj"]
    )
    theirs = peft_layer(weight, config)
    a, b = theirs.lora_A.default.weight, theirs.lora_B.default.weight

    assert_close(linear.base.dense(torch.float32), theirs.base_layer.weight.data)
    assert_close(method.lora_B @ method.lora_A, b @ a)
    a.data.copy_(method.lora_A)
    b.data.copy_(method.lora_B)
    same_step(method, linear, theirs, [(method.lora_A, a), (method.lora_B, b)])


def test_vera_equals_peft_on_the_same_random_factors():
    linear, weight, method = seated("vera", (24, 16), rank=4)
    nudge(method)
    config = peft.VeraConfig(r=4, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    a, b = method.factors(16, linear.device)
    theirs.vera_A["default"], theirs.vera_B["default"] = a, b
    theirs.vera_lambda_d.default.data.copy_(method.scale_inner)
    theirs.vera_lambda_b.default.data.copy_(method.scale_out)

    same_step(
        method,
        linear,
        theirs,
        [
            (method.scale_inner, theirs.vera_lambda_d.default),
            (method.scale_out, theirs.vera_lambda_b.default),
        ],
    )


def test_loha_equals_peft():
    linear, weight, method = seated("loha", (24, 16), rank=3, alpha=10)
    nudge(method)
    theirs = peft_layer(weight, peft.LoHaConfig(r=3, alpha=10, target_modules=["q_proj"]))
    pairs = [
        (method.first_B, theirs.hada_w1_a.default),
        (method.first_A, theirs.hada_w1_b.default),
        (method.second_B, theirs.hada_w2_a.default),
        (method.second_A, theirs.hada_w2_b.default),
    ]
    for ours, other in pairs:
        other.data.copy_(ours)

    same_step(method, linear, theirs, pairs)


@pytest.mark.parametrize("factor", [None, 2, 7])
@pytest.mark.parametrize("rank", [2, 12])
def test_lokr_equals_peft(rank, factor):
    linear, weight, method = seated("lokr", (24, 36), rank=rank, alpha=10, factor=factor)
    nudge(method)
    config = peft.LoKrConfig(
        r=rank, alpha=10, decompose_factor=factor or -1, target_modules=["q_proj"]
    )
    theirs = peft_layer(weight, config)
    pairs = [(method.small, theirs.lokr_w1.default)]
    if method.whole:
        pairs += [(method.large, theirs.lokr_w2.default)]
    else:
        pairs += [(method.large_A, theirs.lokr_w2_b.default)]
        pairs += [(method.large_B, theirs.lokr_w2_a.default)]
    for ours, other in pairs:
        assert ours.shape == other.shape
        other.data.copy_(ours)

    same_step(method, linear, theirs, pairs)


@pytest.mark.parametrize("factor", [None, 1, 4, 6])
def test_lokr_splits_sides_as_peft_does(factor):
    for features in range(1, 100):
        assert split(features, factor) == factorization(features, factor or -1)


def test_oft_equals_peft_with_the_exact_cayley_map():
    linear, weight, method = seated("oft", (24, 16), block_size=4)
    nudge(method)
    config = peft.OFTConfig(
        oft_block_size=4, r=0, use_cayley_neumann=False, target_modules=["q_proj"]
    )
    theirs = peft_layer(weight, config)
    theirs.oft_R.default.weight.data.copy_(method.upper)

    same_step(method, linear, theirs, [(method.upper, theirs.oft_R.default.weight)])


@pytest.fixture
def without_cuda_extension(monkeypatch):
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)


@pytest.mark.usefixtures("without_cuda_extension")
def test_boft_with_one_factor_equals_peft():
    linear, weight, method = seated("boft", (24, 16), block_size=4, factors=1)
    nudge(method)
    config = peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    rows, columns = torch.triu_indices(4, 4, 1)
    blocks = theirs.boft_R.default
    blocks.data[..., rows, columns] = 2 * method.upper.data  # of which peft takes the skew half
    theirs.boft_s.default.data.copy_(1 + method.scale[:, None])

    same_step(
        method,
        linear,
        theirs,
        [
            (method.upper, blocks, lambda g: 2 * g[..., rows, columns]),
            (method.scale, theirs.boft_s.default),
        ],
    )


@pytest.mark.usefixtures("without_cuda_extension")
@pytest.mark.parametrize("factors", [2, 3])
def test_boft_permutes_features_as_peft_does(factors):
    features, size = 48, 4
    weight = random_weight((8, features))
    theirs = peft_layer(weight, peft.BOFTConfig(boft_block_size=size, target_modules=["q_proj"]))
    for factor in range(factors):
        group = features // size // 2**factor
        expected = theirs.block_butterfly_perm(features, group, size // 2, factors - 1)

        there, back = butterfly(features, size, factor, torch.device("cpu"))

        assert torch.equal(back, expected)
        assert torch.equal(there[back], torch.arange(features))


def test_boft_multiplies_its_factors_as_peft_does():
    linear, weight, method = seated("boft", (24, 16), block_size=4, factors=2)
    nudge(method)
    rotation = torch.eye(16)
    for factor, blocks in enumerate(method.blocks(torch.float32)):
        order = butterfly(16, 4, factor, torch.device("cpu"))[1]
        place = torch.eye(16)[order]  # peft's perm2mat
        rotation = place @ torch.block_diag(*blocks) @ place.T @ rotation
    x = torch.randn(5, 16)

    assert_close(method(linear, x), (x @ rotation @ weight.T) * (1 + method.scale))
    assert_close(rotation @ rotation.T, torch.eye(16))


def test_hra_equals_peft():
    linear, weight, method = seated("hra", (24, 16), rank=4)
    nudge(method)
    theirs = peft_layer(weight, peft.HRAConfig(r=4, target_modules=["q_proj"]))
    theirs.hra_u.default.data.copy_(method.vectors.T)

    same_step(method, linear, theirs, [(method.vectors, theirs.hra_u.default, lambda g: g.T)])


def test_fourierft_equals_peft_and_draws_its_frequencies():
    linear, weight, method = seated("fourierft", (24, 16), frequencies=20, scaling=150)
    nudge(method)
    config = peft.FourierFTConfig(n_frequency=20, scaling=150, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.fourierft_spectrum.default.data.copy_(method.spectrum)

    same_step(method, linear, theirs, [(method.spectrum, theirs.fourierft_spectrum.default)])


@pytest.mark.parametrize(
    ("numbers", "first", "seed"), [(384, 20, 777), (50, 50, 0), (1, 1, 3), (70_001, 9, 2**32 + 5)]
)
def test_the_front_of_a_shuffle_is_that_of_torch(numbers, first, seed):
    generator = torch.Generator().manual_seed(seed)

    assert torch.equal(
        shuffled(numbers, first, seed), torch.randperm(numbers, generator=generator)[:first]
    )


def test_liera_equals_hira_of_peft_with_alpha_at_the_rank():
    linear, weight, method = seated("liera", (24, 16), rank=4, alpha=4, block=7)
    nudge(method)
    theirs = peft_layer(weight, peft.HiraConfig(r=4, target_modules=["q_proj"]))
    a, b = theirs.hira_A.default, theirs.hira_B.default
    a.data.copy_(method.lora_A)
    b.data.copy_(method.lora_B)

    same_step(method, linear, theirs, [(method.lora_A, a), (method.lora_B, b)])


class Linears(nn.Module):
    """What peft wants around layers where it looks at the loss of the model."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
            self.add_module(name, linear)

    def forward(self, xs: dict[str, torch.Tensor]) -> SimpleNamespace:
        ys = [getattr(self, name)(x) for name, x in xs.items()]
        return SimpleNamespace(ys=ys, loss=sum(y.square().sum() for y in ys))


def adalora_beside_peft(
    total: int, tinit: int, tfinal: int, interval: int
) -> tuple[dict[str, Any], peft.PeftModel, list[tuple[nn.Parameter, nn.Parameter]]]:
    """Three seats with equal numbers: ours, peft's model, and (ours, theirs) of every parameter."""
    shapes = {"q_proj": (24, 16), "k_proj": (8, 16), "down_proj": (21, 34)}
    ours, weights = {}, {}
    for name, shape in shapes.items():
        linear, weights[name], method = seated(
            "adalora",
            shape,
            layer=name,
            rank=5,
            target_rank=2,
            alpha=10,
            interval=interval,
            warmup_share=tinit / total,
            final_share=tfinal / total,
        )
        ours[name] = (linear, nudge(method, size=0.1 * (1 + len(ours))))
    config = peft.AdaLoraConfig(
        init_r=5,
        target_r=2,
        lora_alpha=10,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=interval,
        total_step=total,
        target_modules=list(shapes),
    )
    theirs = peft.get_peft_model(Linears(weights), config)
    pairs = []
    for name, (_, method) in ours.items():
        layer = getattr(theirs.base_model.model, name)
        for factor in ("lora_A", "lora_B", "lora_E"):
            pairs.append((method.get_parameter(factor), getattr(layer, factor).default))
    for one, other in pairs:
        other.data.copy_(one.data.view_as(other))
    return ours, theirs, pairs


def test_adalora_equals_peft_with_its_regulariser():
    ours, theirs, pairs = adalora_beside_peft(total=10, tinit=2, tfinal=3, interval=1)
    xs = {name: torch.randn(5, linear.in_features) for name, (linear, _) in ours.items()}

    ys = [method(linear, xs[name]) for name, (linear, method) in ours.items()]
    penalty = torch.stack([method.penalty() for _, method in ours.values()]).mean()
    (sum(y.square().sum() for y in ys) + penalty).backward()
    found = theirs.base_model(xs)
    found.loss.backward()

    regulariser = found.loss - sum(y.square().sum() for y in found.ys)
    assert penalty > 0.5
    assert_close(penalty, regulariser, rtol=1e-4, atol=1e-4)
    for one, other in zip(ys, found.ys, strict=True):
        assert_close(one, other)
    for one, other in pairs:
        scale = max(1.0, other.grad.abs().max().item())
        assert_close(one.grad / scale, other.grad.view_as(one) / scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("tinit", "tfinal", "interval"), [(2, 3, 1), (0, 4, 3), (5, 0, 2)])
def test_adalora_scores_and_closes_as_peft_does_on_the_same_numbers(
    tinit, tfinal, interval, monkeypatch
):
    total, thresholds, kthvalue = 20, [], torch.kthvalue
    ours, theirs, pairs = adalora_beside_peft(total, tinit, tfinal, interval)
    seats = [method for _, method in ours.values()]
    allocator = theirs.base_model.rankallocator
    names = {id(parameter): name for name, parameter in theirs.base_model.model.named_parameters()}

    def watched(scores, k):
        thresholds.append(kthvalue(scores, k)[0])
        return kthvalue(scores, k)

    monkeypatch.setattr(torch, "kthvalue", watched)
    torch.manual_seed(3)
    closed = []
    for number in range(1, total + 1):
        for one, other in pairs:
            one.data.normal_()
            one.grad = torch.randn_like(one)
            other.data.copy_(one.data.view_as(other))
            other.grad = one.grad.view_as(other).clone()
        asked = len(thresholds)

        AdaLoRA.before_step(seats, Step(number, total, Alone()))
        AdaLoRA.after_step(seats, Step(number, total, Alone()))
        theirs.base_model.update_and_allocate(number)

        for one, other in pairs:
            assert torch.equal(one.data, other.data.view_as(one))
        if number < total - tfinal:
            for seat, (one, other) in zip([s for s in seats for _ in "ABE"], pairs, strict=True):
                (key,) = (key for key, value in seat.named_parameters() if value is one)
                mean, distance = seat.get_buffer(key.replace("lora", "averages"))
                assert_close(mean, allocator.exp_avg_ipt[names[id(other)]].view_as(one))
                assert_close(distance, allocator.exp_avg_unc[names[id(other)]].view_as(one))
        mask = torch.cat([seat.mask for seat in seats]) > 0
        if len(thresholds) > asked:
            scores = torch.cat([seat.scores() for seat in seats])
            assert_close(scores[~mask].max(), thresholds[-1])
        closed.append(int((~mask).sum()))

    assert closed[-1] == 9
    assert len(set(closed)) > 2
