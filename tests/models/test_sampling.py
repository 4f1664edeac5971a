import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from corl_cli.core.types import Sampling
from corl_cli.models.logprobs import guide
from corl_cli.models.noise import row_keys
from corl_cli.models.sampling import Cache, Decoder, choose, draw, nucleus


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = {p: torch.isfinite(nucleus(logits, p))[0].tolist() for p in (0.4, 0.5, 0.51, 0.8, 0.94, 1.0)}
    assert kept == {
        0.4: [True, False, False, False],
        0.5: [True, False, False, False],
        0.51: [True, True, False, False],
        0.8: [True, True, False, False],
        0.94: [True, True, True, False],
        1.0: [True, True, True, True],
    }


def test_temperature_zero_takes_the_best_token_of_the_guided_logits() -> None:
    guided, conditional = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    token, logp = choose(guided, conditional, Sampling(temperature=0), torch.randn(1, 3))
    assert token.tolist() == [1]
    assert torch.allclose(logp, conditional.log_softmax(-1)[:, 1])


def test_recorded_log_probs_have_the_temperature_but_not_the_guidance_or_top_p() -> None:
    guided, conditional = torch.randn(50, 9), torch.randn(50, 9)
    token, logp = choose(guided, conditional, Sampling(temperature=0.5, top_p=0.6), torch.randn(50, 9))
    expected = (conditional / 0.5).log_softmax(-1).gather(-1, token[:, None])[:, 0]
    assert torch.allclose(logp, expected)


@pytest.mark.parametrize("scoring", ["conditional", "guided", "guided-detached"])
def test_drawings_record_the_log_probs_of_the_scoring_by_hand(scoring: str) -> None:
    """A head of identity and a decoder without layers: hidden states are logits."""
    conditional, unconditional = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    guided = unconditional + 3.0 * (conditional - unconditional)
    assert torch.equal(guided, torch.tensor([[3.0, -1.0, -3.0]]))
    assert torch.equal(guide(conditional, unconditional, 3.0), guided)
    sampling = Sampling(temperature=0.5, cfg_weight=3.0, scoring=scoring)
    tokens, logps = draw(
        Still(),  # type: ignore[arg-type]
        conditional[:, None],
        torch.ones(1, 1),
        torch.nn.Identity(),
        torch.eye(3),
        sampling,
        row_keys(["a"], torch.device("cpu")),
        1,
        unconditional[:, None],
    )
    scored = (conditional if scoring == "conditional" else guided) / 0.5
    assert torch.allclose(logps, scored.log_softmax(-1).gather(-1, tokens))


class Still:
    """A decoder whose hidden state is the prompt's last embedding."""

    def prefill(self, embeds: torch.Tensor, mask: torch.Tensor, capacity: int) -> tuple[torch.Tensor, Cache]:
        nothing = torch.zeros(len(embeds), 1, 1, 1)
        return embeds[:, -1], Cache(keys=[], values=[], bias=None, rotation=(nothing, nothing), length=1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_steps_with_a_cache_equal_one_pass_over_everything(kv_heads: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    llama, lm_head = LlamaModel(config).eval(), torch.nn.Linear(32, 11, bias=False)
    embeds = torch.randn(3, 9, 32)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, :2] = 0  # left padding
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = llama(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).last_hidden_state
        decoder = Decoder(llama, lm_head, torch.float32)
        hidden, cache = decoder.prefill(embeds[:, :5], mask[:, :5], capacity=9)
        assert torch.allclose(hidden, whole[:, 4], atol=1e-5)
        for column in range(5, 9):
            assert torch.allclose(decoder.step(embeds[:, column], cache), whole[:, column], atol=1e-5)
