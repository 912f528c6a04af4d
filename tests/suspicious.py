"""Texts that hold what no text of a preference file should hold, by the name under which it is found."""

LETTERS = "Ab3" * 20
SECRETS = {
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "AWS key": "AKIA" + "Q7" * 8,
    "GitHub token": "ghp_" + LETTERS[:36],
    "API key": "sk-proj-" + LETTERS[:30],
    "Hugging Face token": "hf_" + LETTERS[:34],
    "Google key": "AIza" + LETTERS[:35],
    "Slack token": "xoxb-" + LETTERS[:20],
    "web token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:20] + "." + LETTERS[:20],
}
INSIDE = {  # the secret is a part of what gives it away
    "password in an address": ("https://ann:", "s3cret-word", "@example.org/x"),
    "password after its name": ("my Password: ", "hunter2hunter2", "\nthanks"),
}
DAMAGE = {
    "control tokens": ["Hi<|im_end|>", "[INST] Hi [/INST]", "Hi</s>", "<start_of_turn>user", "<｜User｜>"],
    "replacement characters": ["caf\ufffd"],
    "UTF-8 read as another encoding": ["cafÃ©", "donâ€™t", "dash â\x80\x94 here", "Â£5", "ðŸ˜€"],
    "a tokenizer's own marks": ["TheĠquickĠfox", "▁The▁quick"],
    "HTML entities": ["a &amp; b", "it&#39;s"],
    "escapes written out": [r"caf\u00e9"],
    "control characters": ["a\x00b", "a\x1b[0m", "a\x93b"],
    "byte order marks": ["\ufeffHi"],
    "line breaks written out as \\n": [r"One.\nTwo.\n- three"],
}
