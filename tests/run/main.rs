//! The run loop and the exits over the machine for tests, each test in a process of its own: VMs,
//! VMIDs and free frames are the machine's, of which a process has one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod aborts;
mod board;
mod calls;
mod console;
mod emulate;
mod life;
mod passed;
mod regions;
mod schedule;
mod system;
mod translate;

use libtest_mimic::{Arguments, Trial};
use std::process::{Command, ExitCode};

/// A test by its name.
type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), crate::$module::$name as fn())),*),*]
    };
}
const TESTS: &[Test] = tests! {
    calls:
        a_null_hypercall_answers_zero_and_leaves_the_pc
        an_unknown_hypercall_is_not_supported_and_keeps_all_other_registers
        a_hypercall_with_an_immediate_is_not_supported
        an_smc_is_skipped_in_arm_and_thumb_state
        an_smc_from_user_mode_is_undefined
        exits_are_counted_by_reason
        an_instruction_whose_condition_failed_is_skipped_and_itstate_advances;
    aborts:
        a_store_reaches_the_uart_in_its_width
        a_load_gets_the_register_in_its_width
        a_load_extends_the_sign_where_it_says
        big_endian_guests_see_bytes_swapped
        the_banked_register_is_that_of_the_mode
        an_access_in_thumb_state_is_skipped_by_its_length_and_advances_itstate
        a_permission_fault_takes_the_address_by_translation
        a_permission_fault_that_translates_no_more_is_tried_again
        a_store_to_firmware_does_nothing
        an_access_to_ram_that_is_there_by_now_is_tried_again
        an_access_where_nothing_is_aborts_as_the_processor_would
        a_data_abort_says_what_it_was_in_both_formats
        an_exception_is_taken_in_the_state_that_sctlr_says
        high_vectors_go_before_vbar
        an_abort_in_an_it_block_begins_outside_of_it
        an_undefined_instruction_returns_behind_it
        a_fetch_where_nothing_is_aborts
        an_abort_whose_handler_is_nowhere_stops_the_vm
        a_walk_through_a_device_is_an_external_abort_on_the_walk
        a_walk_through_ram_that_is_there_by_now_is_tried_again;
    emulate:
        a_store_with_writeback_reaches_the_device_and_moves_its_base
        flash_keeps_what_is_stored_with_writeback_and_across_a_reset
        flash_takes_no_more_than_a_mib_of_the_machines_memory
        a_thumb_instruction_is_fetched_by_halves_across_pages
        many_words_may_straddle_ram_and_device
        an_abort_half_way_names_its_own_address_and_restores_the_base
        an_unprivileged_access_has_user_modes_rights
        an_instruction_that_cant_be_fetched_any_more_is_tried_again
        exclusives_of_a_device_abort_and_of_ram_are_tried_again
        a_swap_of_a_device_loads_and_stores
        big_endian_data_is_swapped_and_instructions_are_not
        what_is_unpredictable_aborts_and_is_logged_now_and_then
        an_unaligned_access_to_device_memory_is_an_alignment_fault
        vfp_registers_are_the_guests_own
        a_load_into_pc_from_a_device_is_a_prefetch_abort
        a_core_that_names_the_wrong_register_for_thumb_stores_is_not_believed;
    translate:
        stage_1_is_translated_in_the_format_of_its_tables
        both_stages_are_translated_in_the_long_format
        a_translation_of_no_operation_is_refused
        an_access_above_4_gib_does_not_wrap_to_a_device_below;
    passed:
        a_device_is_mapped_and_its_interrupt_is_the_guests_to_end
        a_device_is_one_vms_until_that_is_gone
        a_device_is_quiet_while_its_vm_is_off
        an_interrupt_comes_to_the_cpu_that_its_guest_is_on
        a_device_in_the_way_of_another_is_refused
        ram_that_is_mapped_one_to_one_is_where_the_guest_sees_it;
    regions:
        a_load_is_made_by_the_device_model_and_completed_in_its_width
        a_store_waits_for_its_answer_unless_it_is_posted
        a_posted_store_runs_on_and_asks_for_one_interrupt
        interrupts_do_not_end_the_wait_for_a_device_model
        an_access_without_an_answer_aborts_in_time
        a_device_model_that_refuses_or_goes_ends_in_an_abort
        a_device_model_that_resets_begins_with_an_empty_ring
        a_device_model_whose_count_cant_be_is_a_full_ring
        a_device_model_sets_the_line_of_its_device_alone
        an_instruction_of_two_words_is_made_by_two_requests
        an_address_where_nothing_is_reads_as_zero_where_the_description_says
        where_nothing_is_aborts_and_is_counted_with_the_first_addresses
        regions_that_share_a_page_answer_each_for_itself
        regions_that_overlap_are_refused_with_both_names
        a_backend_that_there_is_not_is_said_and_aborts
        a_vm_with_control_places_devices_of_one_that_is_held
        a_vm_without_control_places_nothing;
    system:
        set_way_operations_clean_memory_once_and_watch_until_the_caches_turn
        jazelle_branches_as_bx_does
        thumbee_is_given_once_used
        registers_that_are_not_there_are_undefined
        a_transfer_is_of_the_register_of_the_mode
        a_transfer_whose_condition_failed_does_nothing
        id_registers_are_the_machines
        the_physical_timer_counts
        the_physical_timer_fires_however_little_time_it_is_given
        an_asynchronous_abort_is_pended_in_the_guest_that_caused_it;
    schedule:
        a_vcpu_alone_has_no_slice_and_waits_by_itself
        two_vcpus_alternate_at_the_ends_of_slices
        yield_and_wfe_let_the_other_run
        a_waiting_vcpu_runs_again_when_woken
        an_idle_cpu_waits_without_a_deadline
        every_interrupt_is_ended_and_deactivated
        the_virtual_timer_stays_active_until_its_guest_deactivates_it
        the_virtual_timers_line_is_looked_at_soon_whatever_else_is_due
        a_timers_interrupt_goes_with_its_vcpu_and_is_no_others
        vfp_moves_at_the_first_use_after_a_switch
        a_vcpu_that_begins_anew_finds_no_vfp_registers_of_its_life_before
        a_vcpu_without_vfp_moves_none
        registers_come_back_after_another_vcpu_ran
        the_highest_priority_that_is_ready_runs
        one_that_preempts_leaves_the_others_their_turns
        a_reservation_bounds_what_a_vm_takes
        waiting_takes_nothing_from_a_reservation
        what_comes_back_while_another_cpu_stops_the_vm_is_there
        a_vm_that_is_paused_runs_on_when_it_is_resumed
        a_cpu_with_nothing_to_do_takes_from_one_that_has_too_much
        a_vcpu_stays_on_the_cpus_that_it_may_run_on
        vcpus_that_move_take_their_vfp_registers_along
        a_period_of_a_millisecond_is_kept_beside_floods_on_one_cpu
        a_period_of_a_millisecond_is_kept_beside_floods_on_two_cpus
        a_period_of_a_millisecond_is_kept_beside_floods_on_four_cpus
        three_vcpus_share_two_cpus_evenly
        five_vcpus_share_four_cpus_evenly
        seven_vcpus_share_four_cpus_evenly
        sixteen_vms_share_one_cpu_evenly
        sixteen_vms_share_two_cpus_evenly
        sixteen_vms_share_four_cpus_evenly
        four_vms_of_eight_vcpus_share_one_cpu_evenly
        four_vms_of_eight_vcpus_share_two_cpus_evenly
        four_vms_of_eight_vcpus_share_four_cpus_evenly
        a_newcomer_has_no_more_than_its_share
        vcpus_that_must_stay_share_with_those_that_move
        vcpus_that_must_stay_are_left_to_themselves
        a_cpu_that_runs_less_than_before_takes_what_waits_elsewhere
        who_wakes_on_a_cpu_that_is_busy_goes_to_one_that_runs_less
        who_gives_way_after_its_slice_has_nothing_left_of_it
        who_gives_way_in_the_midst_of_its_turn_has_the_rest_of_it
        what_comes_for_a_vcpu_that_is_not_live_is_listed_when_it_is
        vms_that_take_turns_keep_their_translations
        vcpus_that_take_turns_find_no_translations_of_each_other
        vcpus_of_one_vm_on_two_cpus_stop_together;
    console:
        what_is_typed_goes_to_one_vm_until_another_is_selected
        a_paste_waits_at_the_keyboard_and_arrives_whole
        a_guest_that_reads_nothing_does_not_keep_commands_from_being_heard
        input_goes_to_the_next_vm_when_one_is_off
        a_vm_is_reset_from_the_console
        vcpus_are_shown_with_what_they_have_done
        a_vcpu_whose_console_is_full_lets_the_other_run
        the_shell_has_what_is_typed_until_it_is_left
        the_shell_shows_vms_and_their_vcpus
        the_shell_hints_at_what_was_meant
        the_shell_completes_words_and_names
        registers_are_shown_of_the_vcpu_that_is_loaded_and_of_another
        the_shell_resets_and_ends_one_vm
        the_shell_pauses_resumes_and_starts_a_vm
        memory_and_interrupts_are_shown
        the_log_has_the_level_that_is_set
        the_machine_is_reset_from_the_shell;
    life:
        a_vm_starts_as_its_kernel_wants
        a_new_vm_finds_nothing_of_what_memory_held
        what_is_loaded_can_be_seen_with_caches_off
        a_kernel_is_used_where_it_lies_until_the_guest_writes_to_it
        a_vm_that_resets_begins_anew
        a_vm_that_resets_has_a_new_interrupt_controller
        a_vcpu_starts_by_cpu_on_and_stops_by_cpu_off
        a_vcpu_that_starts_while_its_vm_resets_stops
        the_last_vm_off_powers_the_machine_off
        cpu_off_of_the_only_vcpu_ends_the_vm
        a_vm_that_crashes_leaves_the_others_running
        console_lines_carry_the_name_while_there_are_several_vms
        vmids_that_run_out_begin_anew_with_one_flush
        a_vm_that_wants_too_much_memory_is_refused_by_name_and_nothing_is_lost
        a_vm_that_is_destroyed_leaves_nothing
        a_vm_that_is_off_starts_again
        a_vm_that_is_paused_while_it_begins_anew_waits
        a_vm_that_is_stopped_while_it_begins_anew_stops
        a_vm_that_crashes_begins_anew_a_few_times
        a_vm_with_control_manages_another
        a_vm_without_control_manages_nobody
        a_vm_that_crashes_shows_its_registers_where_that_is_wanted
        what_cant_be_built_is_logged_and_the_others_start
        a_vm_that_is_dropped_scrubs_its_memory_and_gives_it_back;
};

/// Names the test that this process is for.
const ONE: &str = "ARMILLARY_RUN_TEST";

fn main() -> ExitCode {
    if let Ok(wanted) = std::env::var(ONE) {
        let test = TESTS.iter().find(|(name, _)| *name == wanted);
        test.expect("a test of that name").1();
        return ExitCode::SUCCESS;
    }
    let trials = TESTS
        .iter()
        .map(|&(name, _)| Trial::test(name, move || alone(name)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Runs a test in a process of its own.
fn alone(name: &str) -> Result<(), libtest_mimic::Failed> {
    let output = Command::new(std::env::current_exe()?)
        .env(ONE, name)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
