"""Post-training quantization: rounding a finished model.

Begin with methods.py, which lists the methods and applies one to a whole model.

    hqq.py          better scales from the weights alone
    awq.py, gptq.py use the inputs of each layer on some text, which calibration.py collects
                    (walk.py: part by part)
"""
