"""A question to the judge about one image, as the lanes of a run know it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass

from batchgen.ledger.candidates import Candidate
from batchgen.records import Answer, Item, Judge, Question, ReferenceImage, Sample, Verdict, judge_id
from batchgen.review.question import question_text


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSample(Sample):
    """It waits for its turn as a sample does. Its item is called as `judge_id` says, and its prompt is the question."""

    image: Candidate
    judge: Judge

    def question(self, jpeg: bytes = b"") -> Question:
        """jpeg: of the image; without it as much as an estimate needs."""
        return question(self.judge, self.item.prompt, jpeg)

    def verdict(self, answer: Answer, usd: float | None, attempt: int, at: float) -> Verdict:
        """What the answer says of the image. at: UTC seconds."""
        is_enough = answer.score >= self.judge.least
        return Verdict(
            item_id=self.image.item_id,
            n=self.image.n,
            sha256=self.image.file.sha256,
            by="judge",
            name=self.judge.model,
            ruling="accept" if is_enough else "reject",
            basis=self.fingerprint,
            reason="" if is_enough else "judge",
            message=answer.remark,
            score=answer.score,
            usd=usd,
            attempt=attempt,
            at=at,
        )


def question(judge: Judge, text: str, jpeg: bytes = b"") -> Question:
    image = ReferenceImage("image/jpeg", base64.b64encode(jpeg).decode())
    return Question(model=judge.model, text=text, images=(image,))


def judge_basis(judge: Judge, prompt: str) -> str:
    """Hash of what the judge is asked about an image, and which model: another verdict is out of date. prompt: from which the
    image was made."""
    return _basis(judge, question_text(judge.rubric, prompt))


def _basis(judge: Judge, text: str) -> str:
    return hashlib.sha256(f"{judge.provider}/{judge.model}\0{text}".encode()).hexdigest()[:16]


def judge_sample(judge: Judge, image: Candidate, prompt: str) -> JudgeSample:
    """prompt: from which the image was made. Its fingerprint is the basis of the verdict that answers it."""
    text = question_text(judge.rubric, prompt)
    item = Item(
        id=judge_id(image.item_id), provider=judge.provider, model=judge.model, prompt=text, filename="", checks=()
    )
    wire = json.dumps({"prompt": text, "model": judge.model, "image": image.file.sha256})
    return JudgeSample(item=item, n=image.n, fingerprint=_basis(judge, text), wire=wire, image=image, judge=judge)
