"""Chat with a GGUF file in the Python that has llama_cpp: FILE QUESTIONS, the latter as JSON.

Prints [number of prompt tokens, answer, why it ended] as JSON.
"""

import json
import sys

MAX_TOKENS = 40

if __name__ == "__main__":
    from llama_cpp import Llama  # which the Python that imports MAX_TOKENS need not have

    model = Llama(sys.argv[1], n_ctx=256, n_threads=1, n_gpu_layers=0, verbose=False)
    answers = []
    for question in json.loads(sys.argv[2]):
        found = model.create_chat_completion(
            [{"role": "user", "content": question}],
            temperature=0,
            repeat_penalty=1.0,
            max_tokens=MAX_TOKENS,
        )
        (choice,) = found["choices"]
        prompt = found["usage"]["prompt_tokens"]
        answers.append([prompt, choice["message"]["content"], choice["finish_reason"]])
    print(json.dumps(answers))
