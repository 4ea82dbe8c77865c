"""The benchmark of a server: it starts one, asks it, and says why one did not start."""

import pytest

from e2llm.bench.serving import measure_serving
from e2llm.errors import E2LLMError
from tiny_models import TEXT, tiny_model, tiny_processor


def test_a_server_that_does_not_start_is_told_of_with_its_own_words(tmp_path):
    with pytest.raises(E2LLMError, match=r"the server did not start: .*nowhere"):
        measure_serving(str(tmp_path / "nowhere"), TEXT)


@pytest.mark.slow
def test_a_server_is_asked_at_the_address_that_it_gives(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_processor().save_pretrained(tmp_path / "tiny")
    result = measure_serving(
        str(tmp_path / "tiny"), TEXT, [1], num_requests=1, num_new_tokens=2, num_compared_clients=1
    )
    assert [(row["max_batch"], row["clients"], row["requests"]) for row in result["rows"]] == [
        (16, 1, 1),
        (1, 1, 1),
    ]
    assert result["prompt_tokens"] > 0
    assert result["batching_gain"] > 0
