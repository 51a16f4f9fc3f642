"""The transformer against an independent implementation, its loss and metrics, generation, and published weights."""

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from fiveline.options.pretrained import Source, initialize, read_source
from model.text import net as text_net
from model.text.generate import generate
from model.text.net import Net
from model.text.params import Params
from utils import InputError

SMALL = {"context_length": 12, "num_layers": 2, "num_heads": 2, "width": 16}


def net_of(seed=0, **values):
    params = Params.from_values({**SMALL, **values}, "test").with_facts({"token_bytes": [1] * 11})
    torch.manual_seed(seed)
    net = Net(params).eval().requires_grad_(False)
    for weight in net.parameters():  # larger than at the start, so that attention is not uniform
        weight += torch.randn_like(weight) * 0.3
    return net


def turned(vector, position):
    """Multiply pairs of features, as complex numbers, by a unit number: rotary positions by their definition."""
    half = len(vector) // 2
    angles = position * 10_000.0 ** (-torch.arange(half).double() / half)
    pairs = torch.complex(vector[:half], vector[half:]) * torch.complex(angles.cos(), angles.sin())
    return torch.cat([pairs.real, pairs.imag])


def gpt_logits(net, tokens):
    """Compute the logits of one text, token by token and head by head, in float64."""
    weights = {name.removeprefix("transformer."): weight.double() for name, weight in net.state_dict().items()}
    is_rotary, is_exact = net.params.positions == "rotary", net.params.gelu == "exact"

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["wte.weight"][tokens]
    if not is_rotary:
        x = x + weights["wpe.weight"][: len(tokens)]
    for i in range(2):
        parts, mixed = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, dim=1), []
        for q, k, v in zip(*(part.chunk(net.params.num_heads, dim=1) for part in parts), strict=True):
            if is_rotary:
                q, k = (torch.stack([turned(row, t) for t, row in enumerate(each)]) for each in (q, k))
            shares = [torch.softmax(k[: t + 1] @ q[t] / math.sqrt(len(q[t])), 0) for t in range(len(tokens))]
            mixed.append(torch.stack([share @ v[: len(share)] for share in shares]))
        x = x + linear(torch.cat(mixed, dim=1), f"h.{i}.attn.c_proj")
        hidden = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        x = x + linear(F.gelu(hidden, approximate="none" if is_exact else "tanh"), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ weights["wte.weight"].T


@pytest.mark.parametrize("values", [{}, {"positions": "rotary"}, {"gelu": "exact"}], ids=str)
def test_logits_equal_an_independent_implementation(values):
    net, tokens = net_of(**values), torch.randint(11, (3, 12))
    for text, logits in zip(tokens, net(tokens), strict=True):
        torch.testing.assert_close(logits.double(), gpt_logits(net, text), rtol=1e-5, atol=1e-5)


def test_the_loss_is_torchs_cross_entropy_and_the_metrics_follow_from_it():
    from sklearn.metrics import f1_score

    metrics = text_net.metrics(Params().with_facts({"token_bytes": [1, 2, 3, 1]}))
    logits, labels = torch.randn(2, 5, 4), torch.tensor([[0, 1, 2, 3, -100], [1, 1, -100, 0, 2]])
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(text_net.loss_fn(logits, labels), expected)
    numerator, denominator = metrics["perplexity"](logits, labels)
    torch.testing.assert_close(metrics["perplexity"].finish(numerator / denominator), expected.exp())
    numerator, denominator = metrics["bits_per_byte"](logits, labels)
    assert int(denominator) == 1 + 2 + 3 + 1 + 2 + 2 + 1 + 3
    torch.testing.assert_close(numerator, expected * 8 / math.log(2))
    right, scored = metrics["accuracy"](logits, labels)
    assert (int(right), int(scored)) == (int((logits.argmax(2) == labels).sum()), 8)
    logits, labels = torch.randn(50, 3), torch.randint(3, (50,))
    numerator, denominator = text_net.macro_f1(logits, labels)
    assert float((numerator / denominator).mean()) == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(("temperature", "top_k"), [(0, None), (0.8, 5), (1.5, None)])
def test_generation_with_the_cache_equals_generation_without_it(positions, temperature, top_k):
    net, text, generator = net_of(positions=positions), [1, 2, 3], torch.Generator().manual_seed(1)
    for _ in range(30):  # more than the context_length of 12
        logits = net(torch.tensor([text[-12:]]))[0, -1]
        hidden = logits.argsort(descending=True)[top_k or 11 :]
        shares = (logits.index_fill(0, hidden, -torch.inf) / (temperature or 1e-6)).softmax(0)
        text.append(int(torch.multinomial(shares, 1, generator=generator)))
    assert [*islice(generate(net, [1, 2, 3], temperature, top_k, seed=1), 30)] == text[3:]


def published(net, kind):
    """Return weights as GPT2LMHeadModel, GPT2Model, or nanoGPT, compiled and without biases, saves them."""
    weights = {**net.state_dict(), "lm_head.weight": net.transformer.wte.weight}
    if kind == "nanoGPT":
        return {f"_orig_mod.{name}": weight for name, weight in weights.items() if not name.endswith("bias")}
    is_conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {name: weight.T if name.endswith(is_conv1d) else weight for name, weight in weights.items()}
    for i in range(2):
        weights[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        weights[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if kind == "GPT2LMHeadModel":
        return weights
    return {name.removeprefix("transformer."): weight for name, weight in weights.items() if "lm_head" not in name}


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model", "nanoGPT"])
def test_published_weights_give_the_same_logits(kind, tmp_path):
    from safetensors.torch import save_file

    source, tokens = net_of(seed=1), torch.randint(11, (2, 8))
    if kind == "nanoGPT":
        source.load_state_dict({n: w * (not n.endswith("bias")) for n, w in source.state_dict().items()})
    path, net = tmp_path / "model.safetensors", net_of(seed=2, context_length=8)
    save_file({name: weight.flatten().view(weight.shape) + 0 for name, weight in published(source, kind).items()}, path)
    params = Params(pretrained=str(path)).with_facts(net.params.facts)
    initialize(net, params, read_source(params))
    expected = torch.stack([gpt_logits(source, text) for text in tokens])
    torch.testing.assert_close(net(tokens).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h.0.mlp.c_fc.weight": torch.ones(5)}, "size mismatch for transformer.h.0.mlp.c_fc.weight"),
        ({"wpe.weight": torch.tensor(1.0)}, "size mismatch for transformer.wpe.weight"),
        ({"lm_head.weight": torch.ones(11, 16)}, "lm_head.weight"),  # this net has none beside the token embedding
    ],
    ids=str,
)
def test_weights_of_another_net_are_refused(change, message):
    net = net_of()
    weights = {**published(net_of(seed=1), "GPT2Model"), **change}
    with pytest.raises(InputError, match=message):
        initialize(net, Params(pretrained="file"), Source(weights, "file", None, None))


@pytest.mark.parametrize(("theirs", "ours", "kept"), [("�abc", "�bcd", 3), ("�abc", "�abcd", 4), ("�abc", "�abc", 4)])
def test_characters_keep_their_embeddings_in_a_run_on_another_text(theirs, ours, kept):
    """The second net labels texts, and has two more tokens."""
    facts = [
        {"characters": theirs},
        {"characters": ours, "classes": ["x", "y"], "end": len(ours), "pad": len(ours) + 1},
    ]
    first, second = (
        Net(Params(target="label" if "end" in each else "next").with_facts({**each, "token_bytes": [1] * size}))
        for each, size in zip(facts, (len(theirs), len(ours) + 2), strict=True)
    )
    before = second.transformer.wte.weight.clone()
    record = initialize(
        second, Params(pretrained="run").with_facts(facts[1]), Source(first.state_dict(), "run", None, facts[0])
    )
    expected = [first.transformer.wte.weight[theirs.index(c)] if c in theirs else before[i] for i, c in enumerate(ours)]
    assert torch.equal(second.transformer.wte.weight, torch.cat([torch.stack(expected), before[-2:]]))
    assert torch.equal(second.transformer.h[0].mlp.c_fc.weight, first.transformer.h[0].mlp.c_fc.weight)
    assert record["new"] == ["classifier.weight", "classifier.bias"] and sum(c in theirs for c in ours) == kept
