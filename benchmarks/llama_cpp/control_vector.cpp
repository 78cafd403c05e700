// control_vector MODEL.gguf VECTOR.gguf STRENGTH id id ...: logits after the last token, one a line, with the vector as llama.cpp's own loader reads it.
#include "common.h"
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char ** argv) {
    if (argc < 5) return 1;
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    auto params = llama_context_default_params();
    params.n_ctx = 512;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (const float strength = atof(argv[3])) {
        const auto vector = common_control_vector_load({{strength, argv[2]}});
        if (vector.n_embd < 0) return 2;
        if (llama_set_adapter_cvec(context, vector.data.data(), vector.data.size(), vector.n_embd, 1, llama_model_n_layer(model))) return 3;
    }
    std::vector<llama_token> ids;
    for (int i = 4; i < argc; i++) ids.push_back(atoi(argv[i]));
    if (llama_decode(context, llama_batch_get_one(ids.data(), ids.size()))) return 4;
    const float * logits = llama_get_logits_ith(context, -1);
    for (int i = 0; i < llama_vocab_n_tokens(llama_model_get_vocab(model)); i++) printf("%.6f\n", logits[i]);
}
