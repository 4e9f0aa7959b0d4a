"""What is switched off, where, and which case has to notice.

That keys are written in one order, so that transactions do not wait for each other in a circle, is
not among them: publications of a corpus take turns, and those of two corpora have no row in common.
"""

from dataclasses import dataclass

CORE = "rba_pipeline_tests/core"
FAULTS = "rba_pipeline_tests/faults"
SERVICE = "rba_pipeline_tests/service"


@dataclass(frozen=True, slots=True)
class Defence:
    """One defence of the product.

    Attributes:
        name: What it does, in a few words.
        case: The fault case that it is for.
        file: Where it is, relative to the project.
        old: The text that is it; exactly once in the file.
        new: What stands in its place when it is switched off.
        test: Node id of the test that shows the case.
    """

    name: str
    case: str
    file: str
    old: str
    new: str
    test: str


DEFENCES = (
    Defence(
        "a vector goes to the text that it is of",
        "S1",
        "embedding_service/engine/owner.py",
        "        for ticket, vector in zip(batch, vectors, strict=True):\n",
        "        for ticket, vector in zip(batch, vectors[::-1], strict=True):\n",
        f"{SERVICE}/test_faults_load.py::"
        "test_five_hundred_requests_of_eight_threads_get_the_vectors_of_one[torch]",
    ),
    Defence(
        "rotary frequencies are those of the path, whatever the batch",
        "S3",
        "embedding_service/backend/text_model.py",
        "rotary.frequencies(long=longest > self.native_tokens)",
        "rotary.frequencies(long=len(batch) > 1)",
        f"{SERVICE}/test_same_vectors.py::"
        "test_a_vector_depends_on_nothing_but_its_text[openvino-fp32-60]",
    ),
    Defence(
        "one thread runs the model",
        "S1",
        "embedding_service/engine/owner.py",
        "        self._thread.start()\n",
        "        self._thread.start()\n"
        "        threading.Thread(target=self._own, daemon=True).start()\n",
        f"{SERVICE}/test_engine.py::test_whoever_submits_the_model_is_run_by_one_thread",
    ),
    Defence(
        "the tokenizer that counts is never told to truncate",
        "S2",
        "embedding_service/backend/text_model.py",
        "        kept = self.max_tokens - self._closing\n",
        "        self._tokenizer.enable_truncation(8)\n"
        "        kept = self.max_tokens - self._closing\n",
        f"{SERVICE}/test_faults_load.py::"
        "test_counts_stay_exact_while_other_texts_are_cut_and_encoded",
    ),
    Defence(
        "a batch holds no more than is known to fit into memory",
        "S4",
        "embedding_service/engine/policy.py",
        "        fits &= limits.footprint.fits(texts, longest)\n",
        "        pass\n",
        f"{SERVICE}/test_faults_load.py::"
        "test_a_flood_of_the_longest_texts_is_refused_while_a_query_is_answered",
    ),
    Defence(
        "keys are compared in constant time",
        "S15",
        "embedding_service/api/security.py",
        "hmac.compare_digest(found, digest)",
        "found == digest",
        f"{SERVICE}/test_security.py::test_what_is_shown_meets_the_keys_only_in_compare_digest",
    ),
    Defence(
        "the deadline is that of the whole request",
        "C4",
        "rba_pipeline/resources/deadline_http.py",
        "        own_s, left_s = self.gettimeout(), _left_s()\n",
        "        own_s, left_s = self.gettimeout(), 1e6\n",
        f"{FAULTS}/test_client.py::test_a_reply_that_drips_is_given_up_at_the_total_deadline",
    ),
    Defence(
        "a full service is left alone as long as it says",
        "C5",
        "rba_pipeline/resources/service_answers.py",
        "ServiceOverloaded(told, _retry_after_s(reply))",
        "ServiceOverloaded(told, 0.0)",
        f"{FAULTS}/test_client.py::test_a_full_service_is_left_alone_for_the_time_it_names[fixed]",
    ),
    Defence(
        "a request that is too large is halved",
        "C12",
        "rba_pipeline/core/dispatch.py",
        "            case RequestTooLarge() if len(batch.texts) > 1:\n",
        "            case RequestTooLarge() if len(batch.texts) > 1_000:\n",
        f"{FAULTS}/test_client_texts.py::"
        "test_a_request_that_is_too_large_is_split_and_one_text_that_is_goes_to_quarantine",
    ),
    Defence(
        "the size of what was refused as too large is remembered",
        "C12",
        "rba_pipeline/core/room.py",
        "        return replace(self, most=size // 2, answers=0)\n",
        "        return self\n",
        f"{CORE}/test_dispatch.py::test_a_limit_on_the_size_of_requests_is_met_only_a_few_times",
    ),
    Defence(
        "an outage ends the run",
        "C11",
        "rba_pipeline/core/silence.py",
        "        if now_s < self.since_s + self.outage_s:\n",
        "        if True:\n",
        f"{FAULTS}/test_client_texts.py::test_a_service_that_fails_at_everything_is_no_poison",
    ),
    Defence(
        "no text is blamed before another is embedded",
        "C11",
        "rba_pipeline/core/blame.py",
        "            if self.proofs < wanted or not self._is_proven(suspect):\n",
        "            if self.proofs < wanted:\n",
        f"{CORE}/test_blame.py::"
        "test_a_service_that_embeds_nothing_but_its_canary_has_no_text_blamed",
    ),
    Defence(
        "no text is blamed before another as long is embedded",
        "C11",
        "rba_pipeline/core/blame.py",
        "            is_as_long = suspect.text.tokens <= embedded.tokens or (\n",
        "            is_as_long = True or (\n",
        f"{CORE}/test_blame.py::"
        "test_a_text_is_put_aside_after_another_as_long_was_embedded_since_it_failed",
    ),
    Defence(
        "what was sent before a text failed proves nothing",
        "C11",
        "rba_pipeline/core/blame.py",
        "suspect.is_told or (is_as_long and suspect.failed_at_s <= sent_at_s)\n",
        "suspect.is_told or is_as_long\n",
        f"{CORE}/test_blame.py::test_an_answer_to_what_was_sent_before_a_text_failed_proves_nothing",
    ),
    Defence(
        "what a text's neighbours did is not held against it",
        "C9",
        "rba_pipeline/core/recovery.py",
        "        return _alone(replace(failed, alone=batch.alone + (batch.failures > 0)), seen)\n",
        "        return _alone(replace(failed, alone=failed.failures), seen)\n",
        f"{CORE}/test_dispatch.py::"
        "test_beside_bad_texts_a_chance_failure_has_no_innocent_one_blamed",
    ),
    Defence(
        "a run that fails keeps which texts it found at fault",
        "C9",
        "rba_pipeline/assets/embedding_run.py",
        "                self._write_rejected(ledger)\n",
        "                pass\n",
        f"{FAULTS}/test_client_texts.py::"
        "test_a_text_at_fault_is_not_searched_for_again_after_a_run_that_failed_later[401]",
    ),
    Defence(
        "a run charges a text once",
        "C9",
        "rba_pipeline/core/embeddings.py",
        "rejection.attempts and before.charged_by != run_id",
        "rejection.attempts",
        f"{FAULTS}/test_text_charges.py::"
        "test_a_run_that_loses_the_lock_for_what_it_writes_charges_a_text_once[amid-the-work]",
    ),
    Defence(
        "a group that fails is not halved before a sign of life",
        "C11",
        "rba_pipeline/core/recovery.py",
        "        narrowed = replace(narrowed, proof=seen.answers + 1)\n",
        "        pass\n",
        f"{CORE}/test_dispatch.py::test_no_request_is_halved_as_long_as_nothing_at_all_is_answered",
    ),
    Defence(
        "what is lost beside others is not held against a text",
        "C1",
        "rba_pipeline/core/recovery.py",
        "    is_own = is_alone or (timed_out and others_answered)\n",
        "    is_own = True\n",
        f"{CORE}/test_crashes.py::"
        "test_a_text_that_takes_the_service_down_is_found_and_its_neighbours_are_embedded",
    ),
    Defence(
        "an address that fails is left out",
        "C1",
        "rba_pipeline/core/replicas.py",
        "        if after.failures < patience or self.out_until_s is not None:\n",
        "        if True:\n",
        f"{CORE}/test_dispatch.py::"
        "test_a_dead_address_costs_what_was_in_flight_there_and_is_used_again_when_it_is_back",
    ),
    Defence(
        "two runs do not come back in one wave",
        "C1",
        "rba_pipeline/core/replicas.py",
        "        until_s = now_s + max(wait_s, pause_s * jitter)\n",
        "        until_s = now_s + max(wait_s, pause_s)\n",
        f"{CORE}/test_crashes.py::"
        "test_a_text_that_takes_the_service_down_has_none_of_another_run_blamed",
    ),
    Defence(
        "a refused key is not tried again",
        "C14",
        "rba_pipeline/resources/service_answers.py",
        '            return NotAllowed(f"{address} refuses the key: check EMBEDDING_API_KEY")\n',
        '            return ServiceUnavailable(f"{address} refuses the key")\n',
        f"{FAULTS}/test_client_answers.py::test_a_refused_key_fails_at_once_and_is_not_shown",
    ),
    Defence(
        "as many vectors as texts",
        "C15",
        "rba_pipeline/core/embeddings.py",
        "    if len(data) != count:\n",
        "    if False:\n",
        f"{FAULTS}/test_client_answers.py::"
        "test_a_reply_that_breaks_the_contract_is_refused_whole[C15-one-too-few]",
    ),
    Defence(
        "vectors are placed by index",
        "C16",
        "rba_pipeline/core/embeddings.py",
        '        index = item.get("index")\n',
        "        index = count - len(missing)\n",
        f"{FAULTS}/test_client_answers.py::test_a_reply_in_another_order_is_placed_by_index",
    ),
    Defence(
        "a vector is finite",
        "C18",
        "rba_pipeline/core/embeddings.py",
        "    for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):\n",
        "    for index in ():\n",
        f"{FAULTS}/test_client_answers.py::test_a_reply_that_breaks_the_contract_is_refused_whole[C18-nan]",
    ),
    Defence(
        "a reply has a largest size",
        "C21",
        "rba_pipeline/resources/deadline_http.py",
        "        if len(body) > most_bytes:\n",
        "        if False:\n",
        f"{FAULTS}/test_client_answers.py::test_a_reply_that_is_none_is_refused[endless]",
    ),
    Defence(
        "an answer from another space is refused",
        "C24",
        "rba_pipeline/resources/service_answers.py",
        "    if told != info.space.id:\n",
        "    if False:\n",
        f"{FAULTS}/test_client_answers.py::"
        "test_another_model_between_two_batches_stops_the_partition_and_mixes_nothing",
    ),
    Defence(
        "the canary is compared",
        "C25",
        "rba_pipeline/core/embeddings.py",
        "    if not cosine >= CANARY_COSINE:\n",
        "    if False:\n",
        f"{FAULTS}/test_client_answers.py::test_the_same_space_with_other_numbers_stops_the_next_run",
    ),
    Defence(
        "a commit in doubt is begun again",
        "D3",
        "rba_pipeline/resources/database.py",
        "                pause_s = self._pause_s(refused, failed, elapsed_s)\n",
        "                pause_s = None\n",
        f"{FAULTS}/test_database.py::TestKills::"
        "test_d3_a_commit_in_doubt_is_begun_again_and_doubles_nothing[lost-before-the-commit]",
    ),
    Defence(
        "a server that hangs, connected, is given up in time",
        "D7",
        "rba_pipeline/resources/watched_connection.py",
        "                    if in_vain == ASKED_IN_VAIN:\n",
        "                    if in_vain == 5 * ASKED_IN_VAIN:\n",
        "rba_pipeline_tests/resources/test_watched_connection.py::"
        "test_a_server_that_answers_nobody_is_given_up_as_lost",
    ),
    Defence(
        "a charge is kept in a transaction of its own",
        "D9",
        "rba_pipeline/resources/publishing.py",
        "        _charge(database, corpus, quarantine.refused_now(window, refused, before))\n",
        "",
        f"{FAULTS}/test_database_rows.py::test_d9_the_charge_survives_the_rollback",
    ),
    Defence(
        "publications of a corpus take turns",
        "O6",
        "rba_pipeline/resources/publishing.py",
        "            space_register.lock_corpus(connection, corpus, turn_timeout_s, waiting)\n",
        "",
        f"{FAULTS}/test_database.py::TestTurns::"
        "test_o6_of_two_that_would_commit_at_once_what_the_later_one_says_is_stored",
    ),
    Defence(
        "runs of a partition wait for each other",
        "O6",
        "dagster.yaml",
        "        limit: 1\n",
        "        limit: 4\n",
        f"{FAULTS}/test_daemon.py::"
        "test_o6_the_second_run_of_a_partition_waits_for_the_first_and_sends_nothing_again",
    ),
    Defence(
        "text is cleaned before it is hashed",
        "T4",
        "rba_pipeline/core/documents.py",
        '_UNWANTED.sub("", text)',
        "text",
        f"{FAULTS}/test_documents.py::test_t4_what_a_manifest_says_is_cleaned_as_well",
    ),
    Defence(
        "parsing has a limit of memory",
        "T6",
        "rba_pipeline/resources/parser_child.py",
        "        resource.setrlimit(resource.RLIMIT_AS, (most, most))\n",
        "        pass\n",
        f"{FAULTS}/test_documents.py::"
        "test_a_bad_file_has_its_reason_and_is_not_parsed_again[T6-flate-bomb]",
    ),
    Defence(
        "a link is not followed",
        "T8",
        "rba_pipeline/resources/source_folder.py",
        "os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=place)",
        "os.O_RDONLY | os.O_NONBLOCK, dir_fd=place)",
        f"{FAULTS}/test_documents.py::"
        "test_what_changes_between_look_and_read_neither_blocks_nor_leads_outside[T8-becomes-a-link]",
    ),
    Defence(
        "a run goes on from what is kept",
        "O1",
        "rba_pipeline/assets/embedding_run.py",
        "            ledger.settle(hashes, state)\n",
        "            pass\n",
        f"{FAULTS}/test_kills.py::test_at_an_operation_of_the_record[before-outcomes-are-written]",
    ),
    Defence(
        "the database checks the length of a vector",
        "C18",
        "rba_pipeline/resources/space_register.py",
        "CHECK (abs(vector_norm(embedding) - 1) <= {tolerance})",
        "CHECK ({tolerance} > 0)",
        "rba_pipeline_tests/resources/test_schema.py::"
        "test_a_vector_that_breaks_a_promise_is_refused[zero]",
    ),
)
