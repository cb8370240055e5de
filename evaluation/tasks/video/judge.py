"""What a judge is asked about free answers to questions about a video: the protocol of Video-ChatGPT."""

VIDEO_QA = """You compare an answer to a question about a video with the reference answer.

Count the answer as right if it means the same as the reference: synonyms and other wordings are right, \
contradictions and missing content are not. Also grade how well the two agree with a whole number from 0 (not at all) \
to 5 (fully).

Question: {question}
Reference answer: {reference}
Given answer: {prediction}

Reply with one line and nothing else: yes or no, a comma, and the grade, such as "yes, 4"."""
"""Verdict and grade after Maaz et al. 2023 (https://arxiv.org/abs/2306.05424), in words of this project's.

Accuracy is the share of yes, the score the mean grade. Numbers of different judges or prompts are not comparable.
"""

__all__ = ["VIDEO_QA"]
