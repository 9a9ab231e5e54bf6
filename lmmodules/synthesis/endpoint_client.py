"""A language model at the end of a wire: any server that speaks the completions or chat of OpenAI."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from lmmodules.data.cache import default_cache_dir
from lmmodules.errors import InputError
from lmmodules.run_directory import write_json
from lmmodules.synthesis.client import Decoding

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Answers of a server that mean: later, perhaps."""
LONGEST_WAIT = 60.0
LARGEST_ANSWER = 16 * 1024**2
MOST_STOPS = 4
"""Servers take no more."""


class EndpointClient:
    """A model by its address. What is asked goes there and nowhere else, and is asked once.

    Temperature 0 is sent without `top_p`, which some servers refuse to be 0.

    Args:
        url: Of the server up to and with its version, for example `http://127.0.0.1:8000/v1`.
        model: Its name there.
        chat: Ask `/chat/completions` instead of `/completions`.
        key_variable: Variable of the environment that holds the key, which is sent and never written down.
        timeout_seconds: How long an answer may take.
        attempts: How often a question is put before giving up.
        wait_seconds: Before the second attempt; twice as long before each that follows, and as long as the server says.
        concurrency: Questions on their way at a time.
        cache: A directory for answers; `None` takes the user's cache.

    Raises:
        InputError: When the address is none, or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        chat: bool = False,
        key_variable: str = "OPENAI_API_KEY",
        timeout_seconds: float = 120.0,
        attempts: int = 5,
        wait_seconds: float = 1.0,
        concurrency: int = 4,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https") or not urllib.parse.urlsplit(url).netloc:
            raise InputError(
                f"`url` must begin with http:// or https:// and name a server, but is `{url}`; use for example "
                "`language_model.url=http://127.0.0.1:8000/v1`"
            )
        for name, value in (
            ("timeout_seconds", timeout_seconds),
            ("attempts", attempts),
            ("wait_seconds", wait_seconds),
            ("concurrency", concurrency),
        ):
            if value <= 0:
                raise InputError(f"`{name}` must be positive, but is {value}; use `language_model.{name}=1`")
        self.url = url.rstrip("/")
        self.model = model
        self.chat = chat
        self.prompt_style = "instruction" if chat else "docstring"
        self.name = f"{self.model} at {self._address}"
        self.batch_size = concurrency
        self._key_variable = key_variable
        self._timeout = timeout_seconds
        self._attempts = attempts
        self._wait = wait_seconds
        self._cache = Path(cache).expanduser() if cache is not None else default_cache_dir() / "completions"
        # A redirection would carry the key to another server.
        self._opener = urllib.request.build_opener(_StayHere)

    @property
    def _address(self) -> str:
        return f"{self.url}/chat/completions" if self.chat else f"{self.url}/completions"

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        """Whether there is room for a prompt: only the server knows, and says so.

        Args:
            prompt: To be written on from.
            decoding: How much is written.
        """
        return True

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        """Ask for completions, several at a time; those that were asked for before are read from the cache.

        Args:
            prompts: To be written on from, or to be answered.
            decoding: How.

        Raises:
            InputError: When the server cannot be reached, refuses, or answers what is no completion.
        """
        different = list(dict.fromkeys(prompts))
        with ThreadPoolExecutor(self.batch_size) as pool:
            written = list(pool.map(lambda prompt: self._ask(prompt, decoding), different))
        texts = dict(zip(different, written, strict=True))
        return [decoding.cut(texts[prompt]) for prompt in prompts]

    def request(self, prompt: str, decoding: Decoding) -> dict[str, Any]:
        """The fields of a request.

        Args:
            prompt: To be written on from.
            decoding: How.
        """
        asked: dict[str, Any] = {"model": self.model}
        asked |= {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        asked |= {"max_tokens": decoding.max_new_tokens, "temperature": decoding.temperature}
        if decoding.stop:
            asked["stop"] = list(decoding.stop[:MOST_STOPS])
        if decoding.temperature > 0:
            asked["seed"] = decoding.seed
            if decoding.top_p is not None:
                asked["top_p"] = decoding.top_p
        return asked

    def _ask(self, prompt: str, decoding: Decoding) -> str:
        asked = self.request(prompt, decoding)
        key = hashlib.blake2b(json.dumps([self._address, asked], sort_keys=True).encode(), digest_size=16).hexdigest()
        file = self._cache / key[:2] / f"{key}.json"
        if file.is_file():
            try:
                return str(json.loads(file.read_text(encoding="utf-8"))["text"])
            except (ValueError, KeyError):  # of a disk that was full; it is asked for again
                pass
        text = self._insist(asked)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"url": self._address, "request": asked, "text": text})
        return text

    def _insist(self, asked: Mapping[str, Any]) -> str:
        wait = self._wait
        for attempt in range(1, self._attempts + 1):
            try:
                return self._send(asked)
            except _LaterError as trouble:
                if attempt == self._attempts:
                    raise InputError(
                        f"`{self._address}` gave no completion in {self._attempts} attempts ({trouble}); see whether "
                        "the server runs, or name another by `language_model.url=...`"
                    ) from trouble
                time.sleep(min(max(wait, trouble.seconds), LONGEST_WAIT))
                wait *= 2
        raise AssertionError("an attempt returns or raises")

    def _send(self, asked: Mapping[str, Any]) -> str:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._address, json.dumps(asked).encode(), headers)
        began = time.monotonic()
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                answer = self._read(response, began)
        except urllib.error.HTTPError as error:
            with error:
                said = self._told(error.read(4096))
            if error.code in RETRIED:
                raise _LaterError(f"HTTP {error.code}{said}", _seconds(error.headers)) from error
            raise InputError(f"`{self._address}` refused the request: HTTP {error.code}{said}") from error
        except TimeoutError as error:
            raise _LaterError(f"no answer within {self._timeout:g} seconds") from error
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            slow = isinstance(reason, TimeoutError)
            raise _LaterError(f"no answer within {self._timeout:g} seconds" if slow else str(reason)) from error
        try:
            choice = json.loads(answer)["choices"][0]
            text = choice["message"]["content"] if self.chat else choice["text"]
        except (ValueError, LookupError, TypeError) as error:
            raise _LaterError("what it answers is no completion") from error
        if not isinstance(text, str):
            raise _LaterError("what it answers is no completion")
        return text

    def _read(self, response: IO[bytes], began: float) -> bytes:
        """The answer, if it comes in time: a server may send a byte now and then for ever."""
        answer = b""
        while part := response.read1(65536) if hasattr(response, "read1") else response.read(65536):
            answer += part
            if len(answer) > LARGEST_ANSWER:
                raise _LaterError(f"what it answers is larger than {LARGEST_ANSWER} bytes")
            if time.monotonic() - began > self._timeout:
                raise TimeoutError
        return answer

    def _told(self, answer: bytes) -> str:
        """What a server says of its refusal, in brackets and without the key."""
        try:
            told = json.loads(answer)
            told = told["error"]["message"] if isinstance(told["error"], dict) else told["error"]
        except (ValueError, LookupError, TypeError):
            return ""
        text = " ".join(str(told).split())[:200]
        key = self._key()
        return f" ({text.replace(key, '...') if key else text})"

    def _key(self) -> str:
        key = os.environ.get(self._key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):  # before something else refuses it and prints it
            raise InputError(f"`{self._key_variable}` must hold a key of plain letters and signs, but holds others")
        return key


class _LaterError(Exception):
    """Something went wrong that may go better later; a server may have said after how many seconds."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Follow nowhere."""


def _seconds(headers: Message) -> float:
    try:
        return float(headers.get("Retry-After", "0"))
    except ValueError:  # a date
        return 0.0
