/* chat_formats.c: the chat formats as data. */
#include "chat_internal.h"

#define CHATML(role) "<|im_start|>" role "\n"
#define CHATML_BLOCKS                                                                             \
    .bos = "", .open = {CHATML("system"), CHATML("user"), CHATML("assistant")},                   \
    .close = {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"}, .generation = CHATML("assistant"), \
    .ends = {"<|im_end|>"}

#define LLAMA3(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_BLOCKS                                                                                  \
    .bos = "<|begin_of_text|>", .open = {LLAMA3("system"), LLAMA3("user"), LLAMA3("assistant")},       \
    .close = {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"}, .generation = LLAMA3("assistant"), .trim = 7, \
    .ends = {"<|eot_id|>", "<|eom_id|>"}
#define LLAMA4(role) "<|header_start|>" role "<|header_end|>\n\n"

#define MISTRAL_BLOCKS .bos = "<s>", .eos = "</s>", .generation = "", .alternate = true, .ends = {"</s>"}

/* The bars are U+FF5C, what looks like an underscore is U+2581. */
#define BAR "\xef\xbd\x9c"
#define LOW "\xe2\x96\x81"
#define DEEPSEEK_BOS "<" BAR "begin" LOW "of" LOW "sentence" BAR ">"
#define DEEPSEEK_EOS "<" BAR "end" LOW "of" LOW "sentence" BAR ">"
#define DEEPSEEK_USER "<" BAR "User" BAR ">"
#define DEEPSEEK_ASSISTANT "<" BAR "Assistant" BAR ">"
#define DEEPSEEK_ENDS .bos = DEEPSEEK_BOS, .eos = DEEPSEEK_EOS, .ends = {DEEPSEEK_EOS}
#define DEEPSEEK_BLOCKS \
    DEEPSEEK_ENDS, .open = {NULL, DEEPSEEK_USER, DEEPSEEK_ASSISTANT}, .close = {NULL, "", DEEPSEEK_EOS}
#define DEEPSEEK_V31                                                                                                \
    DEEPSEEK_ENDS, .open = {NULL, DEEPSEEK_USER, DEEPSEEK_ASSISTANT "</think>"}, .close = {NULL, "", DEEPSEEK_EOS}, \
                   .system = CL_CHAT_TOP, .thoughts = CL_CHAT_CUT_FIRST, .opens = CL_CHAT_AFTER_USER,               \
                   .generates = CL_CHAT_AFTER_USER

#define KIMI(kind, role) "<|im_" kind "|>" role "<|im_middle|>"
#define KIMI_BLOCKS(thought)                                                                                     \
    .bos = "", .open = {KIMI("system", "system"), KIMI("user", "user"), KIMI("assistant", "assistant") thought}, \
    .close = {"<|im_end|>", "<|im_end|>", "<|im_end|>"}, .generation = KIMI("assistant", "assistant"),           \
    .may_have_default = true, .ends = {"<|im_end|>", "[EOS]"}

#define HARMONY(role) "<|start|>" role "<|message|>"

/* Sources: the chat_template of the checkpoints named. Llama 3.2's writes today's date where it can; here it is
 * always the date that 3.1's has, so that a prompt does not depend on the day. */
const cl_chat_format cl_chat_formats[] = {
    {.name = "chatml", CHATML_BLOCKS, .may_have_default = true}, /* Qwen2, Qwen2.5, SmolLM2, many others */
    {.name = "qwen3", CHATML_BLOCKS, .thoughts = CL_CHAT_QWEN3},
    {.name = "llama3", LLAMA3_BLOCKS}, /* Meta-Llama-3-Instruct */
    {.name = "llama3.1",
     LLAMA3_BLOCKS, /* and 3.2, 3.3 */
     .system_lead = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"},
    {.name = "mistral",
     MISTRAL_BLOCKS, /* Mistral-7B-Instruct-v0.2, Mixtral-8x7B-Instruct-v0.1, as first published */
     .open = {NULL, "[INST] ", ""},
     .close = {NULL, " [/INST]", "</s>"},
     .system = CL_CHAT_REFUSED},
    {.name = "mistral-v0",
     MISTRAL_BLOCKS, /* Mistral-7B-Instruct-v0.1, as first published */
     .open = {NULL, "[INST] ", ""},
     .close = {NULL, " [/INST]", "</s> "},
     .system = CL_CHAT_REFUSED},
    {.name = "mistral-v1",
     MISTRAL_BLOCKS, /* the same checkpoints since they take a system message */
     .open = {NULL, " [INST] ", " "},
     .close = {NULL, " [/INST]", "</s>"},
     .system = CL_CHAT_FIRST_USER},
    {.name = "mistral-v3",
     MISTRAL_BLOCKS, /* Mistral-7B-Instruct-v0.3, Mixtral-8x22B-Instruct-v0.1 */
     .open = {NULL, "[INST] ", " "},
     .close = {NULL, "[/INST]", "</s>"},
     .system = CL_CHAT_LAST_USER,
     .trim = 1 << CL_CHAT_ASSISTANT},
    {.name = "mistral-nemo",
     MISTRAL_BLOCKS, /* Mistral-Nemo-Instruct-2407 */
     .open = {NULL, "[INST]", ""},
     .close = {NULL, "[/INST]", "</s>"},
     .system = CL_CHAT_LAST_USER},
    {.name = "llama4", /* Llama-4-Scout and Maverick */
     .bos = "<|begin_of_text|>",
     .open = {LLAMA4("system"), LLAMA4("user"), LLAMA4("assistant")},
     .close = {"<|eot|>", "<|eot|>", "<|eot|>"},
     .generation = LLAMA4("assistant"),
     .trim = 1 << CL_CHAT_SYSTEM,
     .any_trim = true,
     .ends = {"<|eot|>", "<|eom|>"}},
    {.name = "deepseek-v2",
     DEEPSEEK_ENDS, /* DeepSeek LLM and V2 */
     .open = {"", "User: ", "Assistant: "},
     .close = {"\n\n", "\n\n", DEEPSEEK_EOS},
     .generation = "Assistant:"},
    {.name = "deepseek-v2.5", DEEPSEEK_BLOCKS, .generation = DEEPSEEK_ASSISTANT, .system = CL_CHAT_TOP_LAST},
    {.name = "deepseek-v3", DEEPSEEK_BLOCKS, .generation = DEEPSEEK_ASSISTANT, .system = CL_CHAT_TOP},
    {.name = "deepseek-r1",
     DEEPSEEK_BLOCKS,
     .generation = DEEPSEEK_ASSISTANT "<think>\n",
     .system = CL_CHAT_TOP,
     .thoughts = CL_CHAT_CUT_LAST},
    {.name = "deepseek-r1-distill",
     DEEPSEEK_BLOCKS,
     .generation = DEEPSEEK_ASSISTANT "<think>\n",
     .system = CL_CHAT_TOP_LAST,
     .thoughts = CL_CHAT_CUT_LAST},
    {.name = "deepseek-r1-0528",
     DEEPSEEK_ENDS, /* the model writes <think> itself */
     .open = {NULL, DEEPSEEK_USER, ""},
     .close = {NULL, DEEPSEEK_ASSISTANT, DEEPSEEK_EOS},
     .generation = DEEPSEEK_ASSISTANT,
     .system = CL_CHAT_TOP,
     .thoughts = CL_CHAT_CUT_LAST,
     .generates = CL_CHAT_NOT_AFTER_USER},
    {.name = "deepseek-v3.1", DEEPSEEK_V31, .generation = DEEPSEEK_ASSISTANT "</think>"},
    {.name = "deepseek-v3.1-think", DEEPSEEK_V31, .generation = DEEPSEEK_ASSISTANT "<think>"},
    {.name = "kimi-k2", KIMI_BLOCKS("")},
    {.name = "kimi-k2-thinking", KIMI_BLOCKS("<think></think>")},
    {.name = "harmony", /* gpt-oss */
     .bos = "",
     .head =
         HARMONY("system") "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n",
     .date = "Current date: ",
     .head_rest = "\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for "
                  "every message."
                  "<|end|>",
     .open = {HARMONY("developer") "# Instructions\n\n", HARMONY("user"), HARMONY("assistant<|channel|>final")},
     .close = {"\n\n<|end|>", "<|end|>", "<|end|>"},
     .last_close = "<|return|>",
     .generation = "<|start|>assistant",
     .system = CL_CHAT_FIRST_BLOCK,
     .thoughts = CL_CHAT_CHANNELS,
     .ends = {"<|return|>", "<|call|>"}},
};
const int cl_chat_n_formats = sizeof cl_chat_formats / sizeof *cl_chat_formats;

static const char *const format_names[] = {"chatml",
                                           "qwen3",
                                           "llama3",
                                           "llama3.1",
                                           "mistral",
                                           "mistral-v0",
                                           "mistral-v1",
                                           "mistral-v3",
                                           "mistral-nemo",
                                           "llama4",
                                           "deepseek-v2",
                                           "deepseek-v2.5",
                                           "deepseek-v3",
                                           "deepseek-r1",
                                           "deepseek-r1-distill",
                                           "deepseek-r1-0528",
                                           "deepseek-v3.1",
                                           "deepseek-v3.1-think",
                                           "kimi-k2",
                                           "kimi-k2-thinking",
                                           "harmony",
                                           NULL};
_Static_assert(sizeof format_names / sizeof *format_names == sizeof cl_chat_formats / sizeof *cl_chat_formats + 1,
               "a name for each format");

const char *const *cl_chat_names(void) { return format_names; }
