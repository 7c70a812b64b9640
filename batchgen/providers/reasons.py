"""Every reason an attempt can end with, and what a person can do about it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

_BATCH = "run again: it goes into another batch, with `--engine auto` online; `--fallback-at` bounds the waiting"
_RETRY_LATER = "run again later: `batchgen run` asks only for what is missing"
_PROMPT = "change the prompt or the reference; the same request will be refused again"
_REPHRASE = "say plainly that an image is wanted, or describe the scene differently"
_KEY = (
    "check the key of this provider, such as GEMINI_API_KEY or OPENAI_API_KEY; `batchgen doctor` tests it without cost"
)
_ANSWER = "run again; if it keeps happening, the server or a proxy in between is breaking answers"

# Slugs are stable: they are in ledgers, and `batchgen retry --reason SLUG` takes them.
REMEDIES: Mapping[str, str] = {
    # Quota and access
    "rate_limited": "lower `models: …: rpm` to what your project allows (aistudio.google.com/rate-limit)",
    "daily_quota": "run again after the quota resets (midnight Pacific), or set `models: …: rpd`",
    "hourly_quota": "run again in an hour, or use a paid plan",
    "model_unavailable": "choose another model: `batchgen models` lists those still served",
    "model_forbidden": "this key or organization may not use the model: the message says why; choose another one until then",
    "spend_rate": "the vendor limits the money spent in ten minutes: set `limits: tier` or `usd_per_10_min` to what it allows",
    "no_quota": "this key's tier has no quota for the model: enable billing or choose another model",
    "billed_users_only": "enable billing for the project, or choose another model",
    "maintenance": "the vendor is working on this model: run again later or choose another one",
    "file_storage_full": "delete old files of the project (20 GB at most), then run again",
    "key_rejected": _KEY,
    "token_refused": "check the credentials and this machine's clock; `batchgen doctor --online` asks for a token without cost",
    "permission_denied": "give the account the role Vertex AI User (roles/aiplatform.user) in this project",
    "service_disabled": "enable the API in this project: `gcloud services enable aiplatform.googleapis.com`",
    "model_not_here": "the location may not have this model: try GOOGLE_CLOUD_LOCATION=global, or another model",
    "account_restricted": "the vendor restricted this account: see its console or ask its support",
    "location_unsupported": "the API does not serve this location: run from a supported one",
    "billing": "add credits or raise the spending cap in the vendor's console, then run again",
    # Refusals
    "refused": _PROMPT,
    "prompt_blocked": _PROMPT,
    "content_policy": _PROMPT,
    "filtered": _PROMPT,
    "safety": "soften the prompt, or relax `safety:` where your use allows it",
    "prohibited_content": _PROMPT,
    "image_prohibited_content": "leave out brands, characters and works that belong to others",
    "blocklist": "leave out the blocked word",
    "spii": "leave out personal data",
    "recitation": "ask for something less close to an existing text",
    "image_recitation": "ask for something less close to an existing work",
    "language": "write the prompt in a supported language",
    "escalation": _PROMPT,
    "model_armor": "the project's Model Armor policy refused: change the prompt or the policy",
    "image_safety": "the output filter varies: `batchgen retry --refused` may pass, else soften the prompt",
    # An answer without an image
    "no_image": _REPHRASE,
    "image_other": _REPHRASE,
    "text_only": "the model answered in words: " + _REPHRASE,
    "empty_answer": _RETRY_LATER,
    "other": _REPHRASE,
    "max_tokens": "raise `extra: {generationConfig: {maxOutputTokens: …}}` or shorten the prompt",
    "malformed_function_call": _RETRY_LATER,
    "malformed_response": _RETRY_LATER,
    "unexpected_tool_call": "leave out `search:` for this item",
    "too_many_tool_calls": "leave out `search:` for this item",
    "finish_reason_unspecified": _RETRY_LATER,
    "unknown_finish_reason": "see the message; a newer batchgen may know this reason",
    # What is never sent
    "blocked": "make the image that it needs: run without --only, or retry it; what waits is made along with it",
    # An answer that breaks the protocol
    "malformed": _ANSWER,
    "not_json": _ANSWER,
    "html": "a proxy, login page or wrong base URL answers in place of the API",
    "redirect": "the base URL leads elsewhere: check it, and whether a login page or proxy stands in between",
    "not_the_api": "something other than the API answers at the base URL: check the address",
    "bad_base64": _ANSWER,
    "compressed": _ANSWER,
    "continuation": _RETRY_LATER,
    "unreadable": "the answer is kept: report the bug; a newer batchgen reads it without buying again",
    # A request that the vendor does not accept
    "bad_request": "the message names the field: correct it in the manifest, or leave it out",
    "not_sendable": "`extra` holds something JSON cannot say (a date, NaN): quote it",
    "request_too_large": "use fewer or smaller references (about 14 MB together)",
    "missing_thought_signature": "start the conversation again: an earlier answer was not sent back as it came",
    "file_unavailable": "the uploaded file expired (48 hours): run again to upload it again",
    "upload_refused": "the address for the upload is on another host: check the base URL, or use smaller references",
    "upload_failed": "a large reference could not be uploaded; nothing was billed: run again later",
    "reference_link": "the link or bucket in `references` gave no image; nothing was billed: see the message, then run again",
    "reference_link_refused": "references are fetched over https from public hosts, up to 100 MB: save the image as a file",
    "reference_gone": "the reference changed, went away or cannot be sent: see the message, then run again",
    "unexpected_status": "check the base URL: this is not how the API answers",
    "input_rejected": "the vendor could not read a reference: save it again as PNG or JPEG",
    # Problems of the vendor and the network
    "server_fault": _RETRY_LATER,
    "overloaded": "the vendor is overloaded: run again later, or set `fallback:` to another model",
    "tier_refused": "asked again at the standard service tier; leave `service_tier` out if it is never to be had",
    "deadline": "the vendor ran out of time: ask for a smaller `image_size` or run again later",
    "connect_failed": "check network, proxy and base URL; nothing was billed",
    "unanswered": "possibly billed: `--on-uncertain retry` asks again, `hold` leaves it for you to decide",
    "download_failed": "the image is paid for: run again to download it at no charge",
    "link_gone": "the image was paid for and its link is dead: `retry --failed --reason link_gone` buys it again",
    "link_refused": "the image is paid for, but its link is not safe to follow: `retry --failed --reason link_refused` buys it again",
    "mismatch": "the image is in drafts/: take it, change what is asked for, or buy it again with `retry --failed`",
    # Jobs that an API has accepted and answers later
    "job_failed": "the vendor's message says why; run again",
    "cancelled": "somebody cancelled its job; run again to make it",
    "job_lost": "the vendor does not know the job any more; possibly billed: run again",
    # Batches
    "batch_lost": _BATCH,
    "batch_expired": _BATCH,
    "batch_cancelled": _BATCH,
    "batch_failed": "the message says why; run again, with `--engine auto` to make it online",
    "batch_gone": "it was deleted, or belongs to another key or project; possibly billed: run again",
    "missing_line": "the vendor answered the batch without it: run again",
    "not_sent": _RETRY_LATER,
    # Bytes that are not a whole image
    "not_an_image": _ANSWER,
    "truncated": _ANSWER,
    "too_large": "the answer or its image is beyond the safety limits and was not read: the message says which",
    "damaged": _ANSWER,
    "error": "see the message",
}
