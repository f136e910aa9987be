"""Where each test runs: in which precision, and in which job. This table alone says so.

The theory and the models are tested in float32 and in float64. Everything else runs in one
precision: float32, or float64 where its tolerances are tight; so do the tests of theory and models
that hold random draws to their own standard error, or that run NumPyro's loops, where no digit
decides. `make test` runs the default job in both precisions; `make test-NAME` runs another job.

A name is a path below tests/, a folder, a file or a test (`folder/test_file.py::test_name`); the
longest that fits counts."""

from collections.abc import Iterable

BOTH = (
    "test_mixed_precision.py",
    "probattn",
    "models",
    "probattn/emission/test_emission_process.py::test_it_works_under_jit_and_vmap_in_both_precisions",
)

# Bars that float32 cannot meet, such as 1e-10 against automatic differentiation.
FLOAT64 = (
    "test_mixed_precision.py::test_models_compute_in_the_default_float",
    "test_mixed_precision.py::test_gradients_are_those_of_the_default_float_rounded_to_the_type_of_the_input",
    "inference/devices/test_devices.py",
    "inference/fitting/test_fits.py",
    "inference/evaluation/test_geometry.py",
    "inference/evaluation/test_predictive.py",
    "inference/devices/test_multihost.py::test_eight_devices_give_what_one_gives",
    "inference/evaluation/test_perturbations.py",
    "models/test_emission_model.py::test_joint_density_follows_the_formula",
    "models/test_emission_model.py::test_the_two_coordinates_differ_by_the_log_determinant",
    "models/test_emission_model.py::test_what_follows_the_end_bears_on_nothing",
    "models/test_emission_model.py::test_quantities_are_blind_to_rotations_of_the_embeddings",
    "models/test_emission_model.py::test_a_mode_in_embedding_coordinates_has_the_smaller_barrier",
    "models/test_normalised_barrier.py::test_gradients_are_those_of_finite_differences",
    "models/test_language_model.py::test_the_law_over_all_padded_sequences_sums_to_one",
    "models/test_language_model.py::test_log_likelihood_follows_the_formula_token_by_token",
    "models/test_language_model.py::test_joint_density_is_likelihood_plus_weighted_path_plus_prior",
    "models/test_transformer.py::test_the_blocks_of_a_layer_are_the_derivatives_of_its_attention",
    "models/test_transformer.py::test_the_joint_is_likelihood_penalty_and_prior",
    "models/test_transformer_training.py::test_the_blocks_of_the_stream_are_its_derivatives",
    "probattn/attention/test_barrier.py::test_by_default_all_positions_count_and_the_scale_is_one",
    "probattn/attention/test_barrier.py::test_each_variant_is_its_formula",
    "probattn/attention/test_determinant.py::test_sign_and_log_det_agree_with_the_library",
    "probattn/attention/test_determinant.py::test_forward_and_second_derivatives_agree_with_the_library",
    "probattn/attention/test_determinant.py::test_pivots_are_exchanged_where_they_vanish_or_nearly_do",
    "probattn/attention/test_determinant.py::test_one_block_that_needs_exchanges_costs_the_others_no_digits",
    "probattn/sequence/test_survival.py::test_survival_is_the_mass_that_has_not_ended",
    "probattn/sequence/test_survival.py::test_sequences_in_chunks_are_each_counted_once",
    "probattn/sequence/test_survival.py::test_a_starved_bigram_is_not_tight",
    "probattn/sequence/test_survival.py::test_a_positive_probability_at_each_step_is_no_proof",
    "probattn/sequence/test_survival.py::test_the_bound_holds_at_every_history",
    "probattn/attention/test_jacobian.py::test_residuals_follow_the_formula",
    "probattn/attention/test_jacobian.py::test_blocks_are_the_diagonal_of_a_block_triangular_jacobian",
    "probattn/attention/test_jacobian.py::test_log_det_and_margin_agree_with_dense_computations",
    "probattn/attention/test_jacobian.py::test_gradient_of_log_det_agrees_with_differentiating_the_slow_map",
    "probattn/attention/test_jacobian.py::test_the_density_integrates_to_one_under_the_contraction_cap",
    "probattn/attention/test_margins.py::test_each_kind_from_its_definition",
    "probattn/attention/test_margins.py::test_sigma_min_is_the_distance_to_the_nearest_singular_matrix",
    "probattn/attention/test_margins.py::test_slack_is_that_of_the_dense_matrix_inequality",
    "probattn/sequence/test_mixture.py::test_its_laws_are_averages_of_the_draws_laws",
    "probattn/sequence/test_mixture.py::test_averaging_conditionals_over_draws_is_another_law",
    "probattn/attention/test_numerics.py::test_near_the_boundary_float32_keeps_the_digits_that_the_docstring_promises",
    "probattn/attention/test_density_and_readout.py::test_it_is_the_density_and_the_readout",
    "probattn/sequence/test_marginals.py::test_marginals_are_sums_of_the_law",
    "probattn/sequence/test_marginals.py::test_marginals_of_marginals_agree_in_either_order",
    "probattn/sequence/test_marginals.py::test_conditionals_are_ratios_of_sums",
    "probattn/attention/test_process.py::test_log_prob_is_the_change_of_variables_with_the_dense_jacobian",
    "probattn/attention/test_process.py::test_a_batch_is_its_processes_one_by_one",
    "probattn/attention/test_process.py::test_samples_follow_the_density_in_one_dimension",
    "probattn/attention/test_process.py::test_gradients_are_those_of_finite_differences",
    "probattn/sequence/test_random_set.py::test_set_law_is_the_law_of_the_visited_set",
    "probattn/sequence/test_random_set.py::test_containment_is_totally_monotone_and_its_moebius_inverse_is_the_set_law",
    "probattn/sequence/test_random_set.py::test_capacity_and_inclusion_follow_from_the_set_law",
    "probattn/sequence/test_sequence_process.py::test_total_mass_is_one_and_every_sequence_has_its_probability",
    "probattn/sequence/test_sequence_process.py::test_prefix_laws_sum_to_one_at_every_length_and_are_consistent",
    "probattn/sequence/test_sequence_process.py::test_next_token_laws_are_ratios_of_prefix_laws",
    "probattn/sequence/test_sequence_process.py::test_without_an_end_token_it_is_a_law_on_infinite_sequences_and_says_so",
    "probattn/attention/test_small_blocks.py::test_value_and_derivatives_are_those_of_the_whole_blocks",
    "probattn/attention/test_transform.py::test_inverse_and_forward_undo_each_other",
    "probattn/attention/test_transform.py::test_forward_is_the_limit_of_the_plain_iteration",
    "probattn/attention/test_transform.py::test_log_det_is_that_of_the_dense_jacobian_in_both_directions",
    "probattn/attention/test_transform.py::test_derivatives_in_the_parameters_are_those_of_finite_differences",
    "probattn/attention/test_transform.py::test_jit_vmap_and_scan_give_the_same",
    "probattn/attention/test_transform.py::test_a_batch_of_maps_is_its_maps_one_by_one",
    "probattn/attention/test_uniqueness.py::test_the_theorys_one_dimensional_figures",
    "probattn/attention/test_uniqueness.py::test_under_the_cap_the_density_integrates_to_one_for_any_parameter_and_history",
    "probattn/attention/test_uniqueness.py::test_the_cap_is_tight_and_leaves_one_root",
    "probattn/attention/test_uniqueness.py::test_counting_roots_in_the_plane_agrees_with_quadrature",
    "probattn/attention/test_uniqueness.py::test_certificates_hold_only_where_there_is_one_root",
    "probattn/attention/test_uniqueness.py::test_each_certificate_from_its_formula",
)

# Tests of the theory and the models in which no digit decides.
FLOAT32 = (
    "models/test_emission_model.py::test_generation_agrees_with_the_process",
    "models/test_emission_model.py::test_it_is_a_plain_numpyro_model",
    "models/test_emission_model.py::test_margins_are_means_given_the_tokens",
    "models/test_emission_model.py::test_prior_predictive_sampling",
    "models/test_language_model.py::test_plain_numpyro_samples_and_optimises_it_without_a_wrapper",
    "models/test_latent_attention.py::test_a_symmetric_map_stays_in_its_convex_domain",
    "models/test_latent_attention.py::test_prior_predictive_sampling",
    "models/test_latent_attention.py::test_the_map_recovers_known_parameters",
    "models/test_latent_attention.py::test_the_posterior_recovers_known_parameters",
    "models/test_transformer.py::test_it_fits_by_the_same_machinery",
    "probattn/attention/test_batching.py",
    "probattn/attention/test_process.py::test_it_is_a_site_of_any_numpyro_model",
    "probattn/attention/test_process.py::test_jit_pytree_expand_and_vmap",
    "probattn/attention/test_process.py::test_samples_are_the_transformed_noise",
    "probattn/attention/test_process.py::test_shapes",
    "probattn/emission/test_emission_process.py",
    "probattn/sequence/test_marginals.py::test_a_table_has_an_axis_for_each_position_in_the_order_asked",
    "probattn/sequence/test_marginals.py::test_monte_carlo_is_within_its_standard_error_of_the_sum",
    "probattn/sequence/test_marginals.py::test_the_choice_is_made_by_size_and_announced",
    "probattn/sequence/test_marginals.py::test_weights_make_up_for_what_was_given",
    "probattn/sequence/test_random_set.py::test_forbidding_estimates_small_probabilities_that_counting_misses",
    "probattn/sequence/test_random_set.py::test_monte_carlo_is_within_its_standard_error_of_the_sum",
    "probattn/sequence/test_random_set.py::test_powers_of_the_vocabulary_are_all_there",
    "probattn/sequence/test_random_set.py::test_sampled_sets_follow_the_set_law",
    "probattn/sequence/test_random_set.py::test_what_is_too_large_says_how_large",
    "probattn/sequence/test_sequence_process.py::test_it_is_a_pytree_and_goes_through_jit_vmap_grad_and_plates",
    "probattn/sequence/test_sequence_process.py::test_samples_follow_the_law_and_a_swapped_logit_is_noticed",
    "probattn/sequence/test_survival.py::test_survival_by_monte_carlo_is_within_its_error_which_beats_counting",
)

# Statistical runs, of minutes when programs have to be compiled.
SLOW = (
    "inference/evaluation/test_simulation_calibration.py::test_an_emission_model_without_the_log_determinant_is_seen",
    "inference/evaluation/test_simulation_calibration.py::test_every_parametrisation_is_calibrated_over_a_thousand_simulations",
    "inference/evaluation/test_simulation_calibration.py::test_parameters_and_embeddings_of_an_emission_model_are_calibrated_together",
    "inference/evaluation/test_simulation_calibration.py::test_the_emission_model_is_calibrated_over_a_thousand_simulations",
    "inference/evaluation/test_simulation_calibration.py::test_the_posterior_is_calibrated",
    "inference/test_contract.py::test_a_model_of_particles_is_compared",
    "inference/evaluation/test_evidence.py::test_it_agrees_with_bridge_sampling_from_our_own_sampler",
    "inference/evaluation/test_convergence.py::test_raw_weights_look_converged_and_predictions_are_not",
    "inference/fitting/test_emission_fits.py::test_another_density_is_marked_wherever_it_stands",
    "inference/fitting/test_emission_fits.py::test_convergence_is_that_of_an_exact_quantity_of_all_draws",
    "inference/fitting/test_emission_fits.py::test_expectations_agree_in_both_coordinates",
    "inference/fitting/test_emission_fits.py::test_noise_coordinates_keep_noise_and_embeddings",
    "inference/fitting/test_emission_fits.py::test_scores_are_those_of_the_particle_filter",
    "inference/fitting/test_microcanonical.py::test_it_agrees_with_nuts",
    "inference/study/test_posterior_robustness.py::test_every_fit_has_every_curve",
    "inference/fitting/test_demo_reference.py",
    "inference/fitting/test_reference.py::test_a_short_run_agrees_with_the_long_one",
    "inference/fitting/test_reference.py::test_laplace_is_told_from_the_posterior",
    "inference/fitting/test_reference.py::test_nuts_agrees_with_quadrature",
    "inference/study/test_stress.py::test_training_learns_what_can_be_known",
    "inference/study/test_stress.py::test_noise_in_training_buys_robustness",
    "models/test_emission_model.py::test_it_is_a_plain_numpyro_model",
    "models/test_language_model.py::test_plain_numpyro_samples_and_optimises_it_without_a_wrapper",
    "models/test_latent_attention.py::test_the_map_recovers_known_parameters",
    "models/test_latent_attention.py::test_the_posterior_recovers_known_parameters",
    "probattn/emission/test_emission_process.py::test_a_mixture_of_emission_processes",
    "probattn/emission/test_emission_process.py::test_draws_of_a_mixture_have_random_numbers_of_their_own",
    "probattn/emission/test_emission_process.py::test_guided_particles_are_worth_many_of_the_prior",
    "probattn/emission/test_emission_process.py::test_the_prior_among_the_guided_particles_bounds_their_weights",
    "cli/test_commands.py::test_evidence_compares_models_of_a_corpus",
    "cli/test_commands.py::test_an_emission_model_takes_the_same_commands",
    "cli/test_commands.py::test_other_methods_fit_and_compare",
    "lens/test_smollm.py",
)

JOBS = {
    "slow": SLOW,
    "notebooks": ("test_notebooks.py",),
    "site": (
        "test_site.py",
        "test_docs.py::test_code_blocks_of_pages",
        "inference/report/test_browser.py",
        "lens/test_browser.py",
    ),
    "examples": (
        "test_examples.py::test_it_runs_and_learns",
        "test_docs.py::test_code_of_the_long_pages_runs_with_small_settings",
    ),
    "kill": ("inference/fitting/test_kill.py",),
    # Needs `pip install torch transformers`; skips without.
    "transformers": ("lens/test_reference_logits.py::test_new_random_models_agree_live",),
    "processes": (
        "inference/devices/test_devices.py::test_a_map_is_the_same_on_two_devices",
        "inference/devices/test_devices.py::test_a_short_posterior_is_the_same_on_two_devices",
        "inference/devices/test_devices.py::test_latent_variables_are_split_with_their_sequences",
        "inference/devices/test_multihost.py",
        "inference/fitting/test_map.py::test_the_loss_is_the_elbo_of_a_point_and_its_program_the_same_in_every_process",
        "test_suite.py",
    ),
    "studies": (
        "cli/test_robustness_study.py",
        "cli/test_robustness_trial.py",
        "cli/test_learning_study.py::test_a_study_leaves_runs_and_a_curve",
        "cli/test_learning_study.py::test_a_finished_study_is_told_again_without_a_fit",
        "cli/test_learning_study.py::test_sizes_may_be_others",
        "cli/test_learning_study.py::test_a_study_that_was_killed_goes_on_to_the_same_end",
        "cli/test_learning_study.py::test_the_curve_of_the_sizes_so_far_is_there_when_a_fit_fails",
        "cli/test_learning_study.py::test_a_posterior_that_failed_with_all_its_draws_does_not_end_the_study",
        "cli/test_learning_study.py::test_the_folder_of_another_study_is_refused",
        "cli/test_learning_study.py::test_the_study_of_another_corpus_is_refused",
        "cli/test_learning_study.py::test_runs_that_are_not_of_the_study_are_refused",
    ),
}

# Seconds that one test may take, on a machine that is busy with other things too; past them it is
# killed and named.
LIMITS = {
    "default": 300,
    "slow": 3600,
    "notebooks": 900,
    "site": 600,
    "examples": 600,
    "kill": 1800,
    "transformers": 600,
    "processes": 900,
    "studies": 1800,
}

# Of `make test-fast`, which has the theory and the models in float32, what it leaves out: fits,
# particle filters and sampling whose programs take seconds to compile.
NOT_FAST = (
    "models/test_emission_model.py::test_generation_agrees_with_the_process",
    "models/test_emission_model.py::test_margins_are_means_given_the_tokens",
    "models/test_language_model.py::test_numpyro_default_start_points_lie_in_the_local_domain",
    "models/test_latent_attention.py::test_a_symmetric_map_stays_in_its_convex_domain",
    "models/test_latent_attention.py::test_prior_predictive_sampling",
    "models/test_transformer.py::test_it_fits_by_the_same_machinery",
    "probattn/attention/test_batching.py",
    "probattn/emission",
    "probattn/sequence/test_marginals.py::test_monte_carlo_is_within_its_standard_error_of_the_sum",
    "probattn/sequence/test_random_set.py::test_forbidding_estimates_small_probabilities_that_counting_misses",
    "probattn/sequence/test_random_set.py::test_monte_carlo_is_within_its_standard_error_of_the_sum",
    "probattn/sequence/test_sequence_process.py::test_samples_follow_the_law_and_a_swapped_logit_is_noticed",
)

# Files whose programs are optimised: those that sample for long.
OPTIMISED = (
    "inference/evaluation/test_simulation_calibration.py",
    "inference/evaluation/test_convergence.py",
    "inference/fitting/test_demo_reference.py",
    "inference/fitting/test_fits.py",
    "inference/fitting/test_microcanonical.py",
    "inference/report/test_html.py",
)

# Of the default job, the files that take longest, begun first: what one worker begins last, the
# other one waits for.
LONGEST = ()


def name_of(path: str, test: str) -> str:
    """The name of a test in this table: of its file's path below tests/, and of the function,
    without parameters."""
    return f"{path}::{test.split('[')[0]}"


def job_of(name: str) -> str:
    """The job that a test runs in."""
    fitting = {entry: job for job, entries in JOBS.items() for entry in _fitting(name, entries)}
    return fitting[max(fitting, key=len)] if fitting else "default"


def runs(name: str, job: str, precision: str) -> bool:
    """Whether a test runs in a job ("fast" and "all" are none of the table's own), in this
    precision."""
    if precision not in precisions_of(name):
        return False
    if job == "fast":
        chosen = (
            job_of(name) == "default"
            and bool(_fitting(name, BOTH))
            and not _fitting(name, NOT_FAST)
        )
        return chosen and precision == "float32"
    return job in ("all", job_of(name))


def precisions_of(name: str) -> tuple[str, ...]:
    """The precisions that a test runs in."""
    entries = ((BOTH, ("float32", "float64")), (FLOAT64, ("float64",)), (FLOAT32, ("float32",)))
    fitting = {
        entry: precisions for names, precisions in entries for entry in _fitting(name, names)
    }
    return fitting[max(fitting, key=len)] if fitting else ("float32",)


def _fitting(name: str, entries: Iterable[str]) -> list[str]:
    return [
        entry for entry in entries if name == entry or name.startswith((f"{entry}/", f"{entry}::"))
    ]
