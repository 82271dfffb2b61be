"""Where secrets stand in a text: keys and tokens of services by their form, private keys, passwords said
to be such.

The forms are those of detect-secrets (Yelp) where it has them; services that it does not know have theirs
here, as they document them. Nothing is guessed by entropy, under which every hash would be a secret, and no
service is asked whether a key is good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Final

# What every token has: a long run of its characters with a digit in it. Few texts have one.
TOKEN_SIGN: Final = re.compile(r"(?:[A-Za-z0-9_/+=.:-]{20})")
HAS_DIGIT: Final = re.compile(r"\d")
DETECTORS: Final = {  # of detect_secrets.plugins, but for those that guess: entropy, key words, Artifactory
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}
FURTHER: Final = (
    re.compile(r"\bsk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,}"),  # Anthropic, OpenAI, OpenRouter
    re.compile(r"\bsk-[A-Za-z0-9]{32,}\b"),
    re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),  # Hugging Face
    re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),  # Google
    re.compile(r"\bya29\.[A-Za-z0-9_-]{20,}"),  # Google OAuth
    re.compile(r"\bgithub_pat_[A-Za-z0-9_]{50,}"),
    re.compile(r"\bxapp-\d-[A-Za-z0-9-]{20,}"),  # Slack
    re.compile(r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"),  # Stripe
    re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    re.compile(r"\bdop_v1_[a-f0-9]{64}\b"),  # DigitalOcean
    re.compile(r"\bgsk_[A-Za-z0-9]{40,}\b"),  # Groq
    re.compile(r"\bnvapi-[A-Za-z0-9_-]{40,}"),  # NVIDIA
)
PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
# `password: …`, `"api_key": "…"`, `?token=…`; what stands there is a secret if it looks like no word.
NAMED_SIGN: Final = re.compile(r"pass|pwd|key|token|secret", re.IGNORECASE)
NAMED: Final = re.compile(
    r"(?:passw(?:or)?d|passphrase|\bpwd|(?:api|access|secret|private|auth|encryption|account)[ _-]?key"
    r"|(?:access|auth|api|bearer|refresh|session)[ _-]?token|[?&](?:token|key|sig|signature)"
    r"|(?:client|app|shared|api)[ _-]?secret)s?[\"'`*]{0,3}\s?(?::|=>?|:=|\bis\b)\s{0,2}[\"'`*]{0,3}"
    r"(?P<value>[^\s\"'`,;<>&(){}\[\]]{8,200})",
    re.IGNORECASE,
)
PASSWORD_IN_URL: Final = re.compile(
    r"(?<![a-z0-9])[a-z][a-z0-9+.-]{1,20}://[^\s/:@<>\"']{0,100}:[^\s/@<>\"']{1,200}@[\w.-]+(?::\d+)?",
    re.IGNORECASE,
)


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each secret; where two overlap, both."""
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in PRIVATE_KEY.finditer(text))
    if not HAS_DIGIT.search(text):
        return
    if TOKEN_SIGN.search(text):
        for pattern in _token_patterns():
            yield from (match.span() for match in pattern.finditer(text))
    if NAMED_SIGN.search(text):
        for match in NAMED.finditer(text):
            value = match["value"].rstrip(".!?:")
            if len(value) >= 8 and _is_no_word(value):
                yield match.start("value"), match.start("value") + len(value)


def _is_no_word(value: str) -> bool:
    """Letters and digits mixed, as in no word, date, amount or name of a variable."""
    return (
        any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
        and not value.startswith(("$", "%", "@", "http"))
        and not re.fullmatch(r"[\d.,:/-]+[A-Za-z]{0,10}|[A-Za-z]+[-_]?\d{0,2}", value)
    )


@cache
def _token_patterns() -> tuple[re.Pattern[str], ...]:
    """Loaded when the first text has a sign of a token."""
    found: list[re.Pattern[str]] = []
    for module, name in DETECTORS.items():
        found += getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist
    return (*found, *FURTHER)
