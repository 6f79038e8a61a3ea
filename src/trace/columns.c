/* columns.c: every column of TRACE.h5. Units are what a column counts or numbers: "layer" is a number of layers or
 * which layer. */
#include "columns.h"

#define EVENT(member, unit, text) CL_STORE_COLUMN(cl_event, member, unit, text)
#define PART(member, unit, text) CL_STORE_COLUMN(cl_trace_part, member, unit, text)
#define RANK(member, unit, text) CL_STORE_COLUMN(cl_trace_rank, member, unit, text)
#define REQUEST(member, unit, text) CL_STORE_COLUMN(cl_trace_request, member, unit, text)
#define KIND(member, unit, text) CL_STORE_COLUMN(kind_row, member, unit, text)

static const cl_store_column event_columns[] = {
    EVENT(start_ns, "ns",
          "start, CLOCK_MONOTONIC of the rank's host; add clock_offset_ns of /ranks for rank 0's clock"),
    EVENT(end_ns, "ns", "end, same clock"),
    EVENT(cpu_ns, "ns", "CPU time of the recording thread between start and end"),
    EVENT(weight_bytes, "byte", "weight bytes read, each distinct byte once, by all threads of the rank"),
    EVENT(kv_bytes, "byte", "KV cache bytes read"),
    EVENT(msg_bytes, "byte",
          "bytes sent or received; of a layer, the embedding and the head: got in gathers inside the stage"),
    EVENT(
        gather_ns, "ns",
        "of the time between start and end, spent in exchanges inside the stage: waiting for its other chips, mostly"),
    EVENT(microbatch, "micro-batch", "number of the micro-batch, the same on every rank of a line; -1: none"),
    EVENT(kind, "id", "what happened: id of /kinds"),
    EVENT(layer, "layer", "layer of the model, from 0; -1: none"),
    EVENT(tokens, "token", "tokens in the micro-batch"),
    EVENT(parts, "sequence", "sequences in the micro-batch; fewer than tokens: a prompt is in it"),
    EVENT(peer, "rank", "rank of the other side of a message; of a recv the one that was waited for; -1: none"),
    EVENT(experts, "expert", "distinct experts read"),
    EVENT(gathers, "gather", "exchanges inside the stage that are part of this event"),
    EVENT(gather_messages, "message", "messages that came to this rank in them; none where chips share memory"),
};

static const cl_store_column part_columns[] = {
    PART(microbatch, "micro-batch", "number of the micro-batch that the part is in; rows of one are in its order"),
    PART(rank, "rank", "the rank that scheduled it: the first of its line"),
    PART(request, "request", "whose tokens they are: request of /requests; -1: nobody's"),
    PART(slot, "slot", "place in the line, with a KV cache of its own"),
    PART(position, "token", "position of the first token in its sequence, from 0"),
    PART(tokens, "token", "tokens of the part"),
    PART(outputs, "token", "of them, the last ones, each followed by a sample"),
    PART(guesses, "token", "of them, the last ones, guessed: void from the first wrong one on"),
    PART(forked_from, "slot", "the slot whose cache it begins with; -1: its own"),
    PART(flags, "bits", "1: what the slot held was forgotten first, 2: logits of all its tokens were wanted"),
};

static const cl_store_column rank_columns[] = {
    RANK(rank, "rank", "which rank, from 0"),
    RANK(replica, "line", "which of the lines side by side, from 0"),
    RANK(stage, "stage", "stage of the line, from 0"),
    RANK(member, "chip", "place inside the stage, from 0"),
    RANK(threads, "thread", "threads that compute"),
    RANK(host_cores, "core", "cores of the host that the job may use; 0: unknown"),
    RANK(host, "text", "host name"),
    RANK(cpu, "text", "processor"),
    RANK(clock_offset_ns, "ns", "add to this rank's times to get rank 0's clock"),
    RANK(clock_uncertainty_ns, "ns", "half of the best round trip with rank 0: the offset is right within this"),
    RANK(slice_bytes, "byte", "weights kept by this rank"),
    RANK(kv_bytes, "byte", "KV cache kept by this rank"),
    RANK(budget_bytes, "byte", "memory that slice, KV cache and buffers had to fit into; 0: no limit was given"),
    RANK(baseline_bytes, "byte", "resident memory of the process after MPI_Init"),
    RANK(peak_rss_bytes, "byte", "largest resident memory of the process"),
    RANK(first_layer, "layer", "first layer of this rank"),
    RANK(n_layers, "layer", "layers of this rank"),
    RANK(probe_bytes_per_s, "byte/s",
         "read bandwidth of this rank's threads, all ranks of the host probing at once; 0: not probed"),
    RANK(
        peak_int8_ops_per_s, "operation/s",
        "8-bit arithmetic of this rank's threads on numbers in their caches, a multiplication and an addition are two; "
        "0: not measured"),
    RANK(peak_f32_ops_per_s, "operation/s", "the same in 32-bit floats; 0: not measured"),
    RANK(events, "event", "rows of its table of events"),
    RANK(dropped, "event", "events and parts lost because the disk was full"),
};

static const cl_store_column request_columns[] = {
    REQUEST(request, "request", "number of the request, which its parts name"),
    REQUEST(id, "text", "the request's id, as it was given"),
    REQUEST(prompt_tokens, "token", "tokens of the prompt"),
    REQUEST(completion_tokens, "token", "tokens generated"),
    REQUEST(arrived_ns, "ns", "when it entered the queue, rank 0's clock"),
    REQUEST(started_ns, "ns", "when its first token entered the line; 0: never"),
    REQUEST(first_token_ns, "ns", "when its first generated token was known on rank 0; 0: never"),
    REQUEST(finished_ns, "ns", "when its last token was known on rank 0; 0: never"),
    REQUEST(finish_reason, "text", "stop, length, cancelled or error"),
};

static const cl_store_column kind_columns[] = {
    KIND(id, "id", "value of the column kind of /events"),
    KIND(name, "text", "name"),
    KIND(level, "text", "least --trace-level that records it"),
    KIND(description, "text", "meaning"),
};

const cl_store_row trace_event_row = CL_STORE_ROW(cl_event, event_columns);
const cl_store_row trace_part_row = CL_STORE_ROW(cl_trace_part, part_columns);
const cl_store_row trace_rank_row = CL_STORE_ROW(cl_trace_rank, rank_columns);
const cl_store_row trace_request_row = CL_STORE_ROW(cl_trace_request, request_columns);
const cl_store_row trace_kind_row = CL_STORE_ROW(kind_row, kind_columns);
