"""What a judge is asked about free answers to questions about a video: the protocol of Video-ChatGPT."""

from ..benchmark import Judge

VIDEO_QA = Judge(
    """You compare an answer to a question about a video with the reference answer.

Count the answer as correct (1, otherwise 0) if it means the same as the reference: synonyms and other wordings are \
right, contradictions and missing content are not. Also score how well the two agree with a whole number from 0 (not \
at all) to 5 (fully).

Question: {question}
Reference answer: {reference}
Given answer: {prediction}""",
    {"correct": 1, "score": 5},
)
"""Verdict and grade after Maaz et al. 2023 (https://arxiv.org/abs/2306.05424), in words of this project's.

Accuracy is the share of the correct, the score a mean. Numbers of different judges or prompts are not comparable.
"""

__all__ = ["VIDEO_QA"]
