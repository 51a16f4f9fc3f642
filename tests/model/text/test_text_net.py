"""The transformer against an independent implementation, its loss and metrics, generation, and published weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.text import net as text_net
from model.text.generate import choose, generate
from model.text.net import Net
from model.text.params import Params

SMALL = {"context_length": 12, "num_layers": 2, "num_heads": 2, "width": 16}


def net_of(vocabulary=11, seed=0, **values):
    facts = {"token_bytes": [1] * vocabulary}
    if values.get("target") == "label":
        facts |= {"classes": ["a", "b", "c"], "end": vocabulary - 2, "pad": vocabulary - 1}
    params = Params.from_values({**SMALL, **values}, "test").with_facts(facts)
    torch.manual_seed(seed)
    net = Net(params).eval()
    with torch.no_grad():
        for weight in net.parameters():  # larger than at the start, so that attention is not uniform
            weight += torch.randn_like(weight) * 0.3
    return net


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name + ".weight"]
        + weights[name + ".bias"]
    )


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def turned(vector, position):
    """Multiply pairs of features, as complex numbers, by a unit number: rotary positions by their definition."""
    half = len(vector) // 2
    angles = position * 10_000.0 ** (-torch.arange(half).double() / half)
    pairs = torch.complex(vector[:half], vector[half:]) * torch.complex(angles.cos(), angles.sin())
    return torch.cat([pairs.real, pairs.imag])


def gpt_logits(weights, tokens, num_heads=2, is_rotary=False, is_exact=False):
    """Compute the logits of one text, token by token and head by head, in float64."""
    weights = {name: weight.double() for name, weight in weights.items()}
    x = weights["transformer.wte.weight"][tokens]
    if not is_rotary:
        x = x + weights["transformer.wpe.weight"][: len(tokens)]
    for i in range(sum(name.endswith("ln_1.weight") for name in weights)):
        block = f"transformer.h.{i}."
        qkv = linear(layer_norm(x, weights, block + "ln_1"), weights, block + "attn.c_attn")
        size = x.shape[1] // num_heads
        mixed = torch.zeros_like(x)
        for head in range(num_heads):
            q, k, v = (qkv[:, part * x.shape[1] + head * size :][:, :size] for part in range(3))
            for t in range(len(tokens)):
                now, before = q[t], k[: t + 1]
                if is_rotary:
                    now, before = turned(now, t), torch.stack([turned(key, s) for s, key in enumerate(before)])
                scores = torch.exp(before @ now / math.sqrt(size))
                mixed[t, head * size : (head + 1) * size] = (scores / scores.sum()) @ v[: t + 1]
        x = x + linear(mixed, weights, block + "attn.c_proj")
        hidden = linear(layer_norm(x, weights, block + "ln_2"), weights, block + "mlp.c_fc")
        approximate = torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))
        hidden = 0.5 * hidden * (1 + (torch.erf(hidden / math.sqrt(2)) if is_exact else approximate))
        x = x + linear(hidden, weights, block + "mlp.c_proj")
    x = layer_norm(x, weights, "transformer.ln_f")
    return x @ weights["transformer.wte.weight"].T


@pytest.mark.parametrize("values", [{}, {"positions": "rotary"}, {"gelu": "exact"}], ids=str)
def test_logits_equal_an_independent_implementation(values):
    net, tokens = net_of(**values), torch.randint(11, (3, 12))
    with torch.no_grad():
        found = net(tokens)
    for text, logits in zip(tokens, found, strict=True):
        is_rotary, is_exact = values.get("positions") == "rotary", values.get("gelu") == "exact"
        expected = gpt_logits(net.state_dict(), text, is_rotary=is_rotary, is_exact=is_exact)
        torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_equals_torchs_multihead_attention():
    net = net_of()
    attention, oracle = net.transformer.h[0].attn, nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(attention.c_attn.weight)
        oracle.in_proj_bias.copy_(attention.c_attn.bias)
        oracle.out_proj.load_state_dict(attention.c_proj.state_dict())
        x = torch.randn(2, 7, 16)
        hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
        torch.testing.assert_close(attention(x), oracle(x, x, x, attn_mask=hidden)[0])


def test_a_label_does_not_depend_on_the_padding():
    net = net_of(target="label")
    text = torch.tensor([[4, 2, 7, 1, 9]])
    padded = torch.cat([text, torch.full((1, 6), 10)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net(padded), net(text))
        assert not torch.allclose(net(text[:, [1, 0, 2, 3, 4]]), net(text)), "the order of the tokens must matter"


def test_the_loss_is_torchs_cross_entropy_and_the_metrics_follow_from_it():
    params = Params().with_facts({"token_bytes": [1, 2, 3, 1]})
    metrics = text_net.metrics(params)
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


def test_macro_f1_equals_scikit_learns():
    from sklearn.metrics import f1_score

    params = Params(target="label").with_facts({"classes": ["a", "b", "c"], "token_bytes": [1]})
    logits, labels = torch.randn(50, 3), torch.randint(3, (50,))
    numerator, denominator = text_net.metrics(params)["macro_f1"](logits, labels)
    found = float((numerator / denominator).mean())
    assert found == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_generation_with_the_cache_equals_generation_without_it(positions, temperature):
    net = net_of(positions=positions)

    def tokens(use_cache, seed=1):
        generated = generate(net, [1, 2, 3], temperature, top_k=5, seed=seed, use_cache=use_cache)
        return [next(generated) for _ in range(30)]  # more than the context_length of 12

    assert tokens(use_cache=True) == tokens(use_cache=False)
    assert temperature == 0 or tokens(use_cache=True, seed=2) != tokens(use_cache=True)


def test_only_the_top_k_tokens_are_drawn_and_by_their_probability():
    logits, generator = torch.tensor([0.0, 2.0, 1.0, -1.0]), torch.Generator().manual_seed(0)
    draws = [choose(logits, 0.5, 2, generator) for _ in range(4000)]
    share = draws.count(1) / 4000
    assert set(draws) == {1, 2} and share == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)


def hugging_faces(net):
    """Return a net's weights as transformers' GPT2LMHeadModel saves them."""
    found = {}
    for name, weight in net.state_dict().items():
        is_conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        found[name] = weight.T.contiguous() if is_conv1d else weight.clone()
    for i in range(2):
        found[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        found[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return {**found, "lm_head.weight": found["transformer.wte.weight"]}


def compiled_nanogpts(net):
    return {f"_orig_mod.{name}": w for name, w in net.state_dict().items()} | {
        "_orig_mod.lm_head.weight": net.state_dict()["transformer.wte.weight"]
    }


def bare_gpt2s(net):
    """Return the names of GPT2Model, which the files of GPT-2 on the hub have."""
    return {name.removeprefix("transformer."): w for name, w in hugging_faces(net).items() if "lm_head" not in name}


@pytest.mark.parametrize("published", [hugging_faces, compiled_nanogpts, bare_gpt2s])
def test_published_weights_give_the_same_logits(published, tmp_path):
    from safetensors.torch import load_file, save_file

    source, tokens = net_of(seed=1), torch.randint(11, (2, 8))
    save_file({name: w.clone() for name, w in published(source).items()}, tmp_path / "model.safetensors")
    net = net_of(seed=2, context_length=8)
    net.load_state_dict(net.renamed(load_file(tmp_path / "model.safetensors")))
    expected = torch.stack([gpt_logits(source.state_dict(), text) for text in tokens])
    with torch.no_grad():
        torch.testing.assert_close(net(tokens).double(), expected, rtol=1e-5, atol=1e-5)


def test_missing_biases_of_nanogpt_are_zero():
    net = net_of()
    without = {name: w for name, w in net.state_dict().items() if not name.endswith("bias")}
    found = net.renamed(without)
    assert found.keys() == net.state_dict().keys() and not found["transformer.h.0.attn.c_attn.bias"].any()
