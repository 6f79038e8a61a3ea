/* chat_formats.c: formats that have names, as templates: what the checkpoints named write for plain messages. For
 * models without a template of their own. */
#include "chat_internal.h"

#define EACH "{% for m in messages %}"
#define END_EACH "{% endfor %}"
#define OPENING(text) "{% if add_generation_prompt %}" text "{% endif %}"
#define HAS_SYSTEM "messages[0].role == 'system'"

#define CHATML(role, text) "<|im_start|>" role "\n" text
#define CHATML_OPENING OPENING(CHATML("assistant", ""))

#define LLAMA3(role, text) "<|start_header_id|>" role "<|end_header_id|>\n\n" text
#define LLAMA3_TURN LLAMA3("{{ m.role }}", "{{ m.content | trim }}<|eot_id|>")
#define LLAMA3_OPENING OPENING(LLAMA3("assistant", ""))
#define LLAMA4(role, text) "<|header_start|>" role "<|header_end|>\n\n" text

/* User and assistant, in turns; `first` is the number of messages in front of them. */
#define IN_TURNS(first, where)                                                                             \
    "{% if m.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}{{ raise_exception('message ' ~ " \
    "(loop.index + " first ") ~ ': is ' ~ m.role ~ '; user and assistant must take turns" where "') }}{% endif %}"
#define MISTRAL(after)                                                                                             \
    "{{ bos_token }}" EACH                                                                                         \
    "{% if m.role == 'system' %}{{ raise_exception('message ' ~ loop.index ~ ': the format has no "                \
    "system message (put it into the user\\'s)') }}{% endif %}" IN_TURNS(                                          \
        "0", "") "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content ~ eos_token" after \
                 " }}{% endif %}" END_EACH
/* The system message goes in front of a user's text. */
#define MISTRAL_SYSTEM(where, user, end, assistant)                                                                  \
    "{% set first = 1 if " HAS_SYSTEM " else 0 %}{% set system = messages[0].content ~ '\\n\\n' if first else '' %}" \
    "{{ bos_token }}{% for m in messages[first:] %}" IN_TURNS(                                                       \
        "first", " after the system message") "{% if m.role == 'user' %}" user "{{ system if " where                 \
                                              " }}{{ m.content }}" end "{% else %}{{ " assistant                     \
                                              " ~ eos_token }}{% endif %}" END_EACH

/* The bars are U+FF5C, what looks like an underscore is U+2581. */
#define BAR "\xef\xbd\x9c"
#define LOW "\xe2\x96\x81"
#define DEEPSEEK_BOS "<" BAR "begin" LOW "of" LOW "sentence" BAR ">"
#define DEEPSEEK_EOS "<" BAR "end" LOW "of" LOW "sentence" BAR ">"
#define DEEPSEEK_USER "<" BAR "User" BAR ">"
#define DEEPSEEK_ASSISTANT "<" BAR "Assistant" BAR ">"
/* System messages in front of everything: all of them, an empty line between, or the last. */
#define SYSTEMS "messages | selectattr('role', 'equalto', 'system') | map(attribute='content')"
#define TOP "{{ bos_token }}{{ " SYSTEMS " | join('\\n\\n') }}"
#define TOP_LAST "{{ bos_token }}{{ (" SYSTEMS " | list or ['']) | last }}"
/* What follows the last, or the first, end of thoughts. */
#define CUT_LAST "{{ m.content.split('</think>')[-1] }}"
#define CUT_FIRST "{{ m.content.split('</think>', 1)[-1] }}"
#define DEEPSEEK(content, opening)                                                    \
    EACH "{% if m.role == 'user' %}" DEEPSEEK_USER                                    \
         "{{ m.content }}{% elif m.role == 'assistant' %}" DEEPSEEK_ASSISTANT content \
         "{{ eos_token }}{% endif %}" END_EACH                                        \
         OPENING(DEEPSEEK_ASSISTANT opening)
/* The assistant's turn is opened behind a user's only. */
#define AFTER_USER "{% set ns = namespace(after_user=false) %}"
#define DEEPSEEK_V31(opening)                                                                   \
    AFTER_USER TOP EACH "{% if m.role == 'user' %}{% set ns.after_user = true %}" DEEPSEEK_USER \
                        "{{ m.content }}{% elif m.role == 'assistant' %}"                       \
                        "{{ '" DEEPSEEK_ASSISTANT "</think>' if ns.after_user }}" CUT_FIRST     \
                        "{{ eos_token }}{% set ns.after_user = false %}{% endif %}" END_EACH    \
                        "{% if add_generation_prompt and ns.after_user %}" DEEPSEEK_ASSISTANT opening "{% endif %}"

#define KIMI(thought)                                                                                            \
    EACH "<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ " thought " if m.role == 'assistant' }}{{ m.content }}" \
         "<|im_end|>" END_EACH OPENING("<|im_assistant|>assistant<|im_middle|>")

/* An answer's thoughts are dropped, unless it comes behind the last question; then they are written in full form. */
#define QWEN3                                                                                           \
    "{% set ns = namespace(last=messages | length - 1, looking=true) %}{% for m in messages[::-1] %}"   \
    "{% if ns.looking and m.role == 'user' %}{% set ns.looking = false %}"                              \
    "{% set ns.last = messages | length - loop.index %}{% endif %}" END_EACH EACH                       \
    "<|im_start|>{{ m.role }}\n{% set content = m.content %}{% set thought = '' %}"                     \
    "{% if m.role == 'assistant' and '</think>' in content %}"                                          \
    "{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].strip('\\n') %}"  \
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"                        \
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}"               \
    "<think>\n{{ thought }}\n</think>\n\n{{ content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}" \
    "<|im_end|>\n" END_EACH CHATML_OPENING

#define HARMONY(role, text) "<|start|>" role "<|message|>" text
/* The day is left out where there is none. */
#define HARMONY_HEAD                                                                                        \
    "{% set day = strftime_now('%Y-%m-%d') %}" HARMONY(                                                     \
        "system", "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n" \
                  "{{ 'Current date: ' ~ day ~ '\\n' if day }}\nReasoning: medium\n\n# Valid channels: "    \
                  "analysis, commentary, final. Channel must be included for every message.<|end|>")
#define HARMONY_DEVELOPER HARMONY("developer", "# Instructions\n\n{{ messages[0].content }}\n\n<|end|>")
#define HARMONY_USER HARMONY("user", "{{ m.content }}<|end|>")
#define HARMONY_NO_CHANNEL                                                                                      \
    "{% if '<|channel|>' in m.content %}{{ raise_exception('message ' ~ loop.index ~ ': contains <|channel|>; " \
    "give the final channel\\'s text only') }}{% endif %}"
#define HARMONY_END "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
#define HARMONY_FINAL HARMONY("assistant<|channel|>final", "{{ m.content }}" HARMONY_END)
#define HARMONY_TURNS                                                                                            \
    "{% if " HAS_SYSTEM " and messages[0].content %}" HARMONY_DEVELOPER "{% endif %}" EACH                       \
    "{% if m.role == 'user' %}" HARMONY_USER "{% elif m.role == 'assistant' %}" HARMONY_NO_CHANNEL HARMONY_FINAL \
    "{% endif %}" END_EACH OPENING("<|start|>assistant")

/* Llama 3.2's template writes today's date where it can; here it is always the date that 3.1's has, so that a prompt
 * does not depend on the day. */
const chat_format chat_formats[] = {
    {"chatml", "", "", EACH CHATML("{{ m.role }}", "{{ m.content }}<|im_end|>\n") END_EACH CHATML_OPENING},
    {"qwen3", "", "", QWEN3},
    {"llama3", "<|begin_of_text|>", "", "{{ bos_token }}" EACH LLAMA3_TURN END_EACH LLAMA3_OPENING},
    {"llama3.1", "<|begin_of_text|>", "", /* and 3.2, 3.3 */
     "{{ bos_token }}" LLAMA3(
         "system", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n") "{{ messages[0].content | "
                                                                                         "trim if " HAS_SYSTEM
                                                                                         " }}<|eot_id|>{% for m in "
                                                                                         "messages[(1 if " HAS_SYSTEM
                                                                                         " else 0):] %}" LLAMA3_TURN
                                                                                             END_EACH LLAMA3_OPENING},
    {"mistral", "<s>", "</s>", MISTRAL("")}, /* Mistral-7B-Instruct-v0.2, Mixtral-8x7B-Instruct-v0.1, at first */
    {"mistral-v0", "<s>", "</s>", MISTRAL(" ~ ' '")}, /* Mistral-7B-Instruct-v0.1, at first */
    {"mistral-v1", "<s>", "</s>",                     /* the same checkpoints since they take a system message */
     MISTRAL_SYSTEM("loop.first", " [INST] ", " [/INST]", "' ' ~ m.content")},
    {"mistral-v3", "<s>", "</s>", /* Mistral-7B-Instruct-v0.3, Mixtral-8x22B-Instruct-v0.1 */
     MISTRAL_SYSTEM("loop.last", "[INST] ", "[/INST]", "' ' ~ m.content | trim")},
    {"mistral-nemo", "<s>", "</s>", /* Mistral-Nemo-Instruct-2407 */
     MISTRAL_SYSTEM("loop.last", "[INST]", "[/INST]", "m.content")},
    {"llama4", "<|begin_of_text|>", "", /* Llama-4-Scout and Maverick */
     "{{ bos_token }}" EACH LLAMA4("{{ m.role }}", "{{ m.content | trim if m.role == 'system' else m.content }}<|eot|>")
         END_EACH OPENING(LLAMA4("assistant", ""))},
    {"deepseek-v2", DEEPSEEK_BOS, DEEPSEEK_EOS, /* DeepSeek LLM and V2 */
     "{{ bos_token }}" EACH "{% if m.role == 'user' %}User: {{ m.content }}\n\n{% elif m.role == 'assistant' %}"
     "Assistant: {{ m.content ~ eos_token }}{% elif m.role == 'system' %}{{ m.content }}\n\n{% endif %}" END_EACH
         OPENING("Assistant:")},
    {"deepseek-v2.5", DEEPSEEK_BOS, DEEPSEEK_EOS, TOP_LAST DEEPSEEK("{{ m.content }}", "")},
    {"deepseek-v3", DEEPSEEK_BOS, DEEPSEEK_EOS, TOP DEEPSEEK("{{ m.content }}", "")},
    {"deepseek-r1", DEEPSEEK_BOS, DEEPSEEK_EOS, TOP DEEPSEEK(CUT_LAST, "<think>\n")},
    {"deepseek-r1-distill", DEEPSEEK_BOS, DEEPSEEK_EOS, TOP_LAST DEEPSEEK(CUT_LAST, "<think>\n")},
    {"deepseek-r1-0528", DEEPSEEK_BOS, DEEPSEEK_EOS, /* the model writes <think> itself */
     AFTER_USER TOP EACH "{% if m.role == 'user' %}{% set ns.after_user = true %}" DEEPSEEK_USER
                         "{{ m.content }}" DEEPSEEK_ASSISTANT "{% elif m.role == 'assistant' %}"
                         "{% set ns.after_user = false %}" CUT_LAST "{{ eos_token }}{% endif %}" END_EACH
                         "{% if add_generation_prompt and not ns.after_user %}" DEEPSEEK_ASSISTANT "{% endif %}"},
    {"deepseek-v3.1", DEEPSEEK_BOS, DEEPSEEK_EOS, DEEPSEEK_V31("</think>")},
    {"deepseek-v3.1-think", DEEPSEEK_BOS, DEEPSEEK_EOS, DEEPSEEK_V31("<think>")},
    {"kimi-k2", "", "", KIMI("''")},
    {"kimi-k2-thinking", "", "", KIMI("'<think></think>'")},
    {"harmony", "", "", HARMONY_HEAD HARMONY_TURNS}, /* gpt-oss */
};
const int chat_n_formats = sizeof chat_formats / sizeof *chat_formats;

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
_Static_assert(sizeof format_names / sizeof *format_names == sizeof chat_formats / sizeof *chat_formats + 1,
               "a name for each format");

const char *const *cl_chat_names(void) { return format_names; }
