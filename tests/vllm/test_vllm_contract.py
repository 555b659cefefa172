"""What holds for the local backend holds for vLLM: the same tests."""

# ruff: noqa: F401 - collected from here
# pyright: reportUnusedImport=false

from __future__ import annotations

import pytest

from tests.unit.sampler.test_local_adapters import (
    test_a_configuration_that_is_not_supported_is_refused_by_name,
    test_a_missing_folder_is_not_found,
    test_a_name_is_never_given_other_weights,
    test_an_unloaded_adapter_serves_its_requests_to_the_end_and_no_new_ones,
    test_loads_and_unloads_change_nothing_for_what_runs,
    test_truncated_or_infinite_weights_are_corrupt,
    test_unloading_an_unknown_name_is_fine,
    test_weights_that_do_not_fit_the_base_are_refused,
)
from tests.unit.sampler.test_local_logprobs import (
    test_a_zero_adapter_is_the_base_beside_any_other,
    test_greedy_tokens_are_those_of_generate,
    test_logprobs_are_those_of_a_full_forward_for_any_mix_in_one_batch,
    test_top_logprobs_are_the_most_likely_tokens_and_leave_out_what_cannot_be_drawn,
)
from tests.unit.sampler.test_local_requests import (
    test_an_unknown_adapter_is_not_found,
    test_eos_ends_an_answer_and_is_its_last_token,
    test_min_tokens_keep_an_answer_from_ending,
    test_requests_that_make_no_sense_are_refused,
    test_rollouts_of_one_prompt_are_each_as_if_alone,
    test_without_max_tokens_an_answer_ends_at_the_context,
)
from tests.unit.sampler.test_local_seeds import (
    test_a_seed_gives_the_same_tokens_alone_and_in_any_company,
    test_seeds_differ_and_so_do_their_negatives,
)
from tests.unit.sampler.test_local_text import (
    test_a_stop_string_cuts_the_text_and_keeps_the_tokens_that_complete_it,
    test_streamed_text_is_the_decoded_tokens,
)

pytestmark = pytest.mark.vllm
