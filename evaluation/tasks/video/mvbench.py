"""MVBench: twenty tasks about what happens in time (Li et al. 2023), as multiple choice."""

from collections.abc import Iterator

from ..benchmark import Average, Benchmark
from ..choices import letter_of_text, options
from ..fields import need_list, need_texts
from ..sample import Sample, ask
from ..source import Source

FOLDERS = {
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "action_prediction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}
"""Subset -> folder of its videos. In this revision, videos of which a part is asked about are cut to that part."""
SPARE = "data0613"
"""Folder that holds some of the clips of CLEVRER and STAR."""


def read(source: Source) -> Iterator[Sample]:
    """The rows of all subsets."""
    for subset, folder in FOLDERS.items():
        for number, (where, row) in enumerate(source.rows(f"json/{subset}.json")):
            video, question, answer = need_texts(row, where, "video", "question", "answer")
            choices = need_list(row, where, "candidates", at_least=2)
            letter = letter_of_text(answer, choices, where)
            path = source.media(where, f"{folder}/{video}", f"{SPARE}/{folder}/{video}")
            yield Sample(
                f"{subset}/{number}",
                ask({"type": "video", "path": path}, f"Question:{question}\nOption:\n{options(choices, '({}) ')}"),
                letter,
                (letter,),
                f"{folder}/{video}",
                where,
                choices,
                categories={"subset": subset},
            )


BENCHMARKS = (
    Benchmark(
        name="mvbench",
        title="MVBench",
        measures="Twenty tasks about what happens in time, as multiple choice. Broken down by task.",
        read=read,
        metric="multiple_choice",
        tree="json/action_antonym.json, ...    20 files\n"
        + "\n".join(f"{folder}/..." for folder in sorted(set(FOLDERS.values()))),
        origin="https://huggingface.co/datasets/OpenGVLab/MVBench/tree/video (revision video)",
        licence="MIT (questions); videos: of the sets that they come from",
        read_on="from the description, 2026-11-28 (the file list of "
        "https://huggingface.co/datasets/OpenGVLab/MVBench/tree/video; folders as lmms-eval 0.7.3 reads them)",
        average=Average(over="mean", axis="subset"),
        prompt="\nOnly give the best option.",
        max_new_tokens=16,
        note="4,000 questions, 200 in each subset; the score is the mean over subsets. Of revision main, whose videos "
        "are not cut, nothing is read. The publisher puts a system prompt in front and begins the answer; lmms-eval "
        "and this do not. Sound is heard by models with video_sound.",
    ),
)
"""All subsets."""

__all__ = ["BENCHMARKS"]
