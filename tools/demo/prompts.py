"""The prompts that the demo model is trained on; the first of each list is the one to use.

The Python package's `detect`, `point`, `caption` and `read` must ask with these words: image first, then the text.
"""

DETECT_ONE = (
    "What's the bounding box for the {object} in the image?",
    "What's the bounding box for the {object}?",
    "What is the bounding box of the {object} in the image?",
    "Detect the {object} in the image.",
    "Detect the {object}.",
    "Detect {object}",
    "Detect all {object}",
    "Find the {object}.",
    "Find the {object} in the picture.",
    "Find all {object} in the image.",
    "Locate the {object} in the image.",
    "Where is the {object}?",
    "Where is the {object} in the image?",
    "Return bounding boxes for {object} as JSON.",
    "detect {object}",
    "Give the bounding box for the {object}.",
)
DETECT_SEVERAL = (
    "What are the bounding boxes for the {objects} in the image?",
    "What are the bounding boxes for the {objects}?",
    "Detect the {objects} in the image.",
    "Detect {objects}",
    "Detect {objects}.",
    "Find the {objects}.",
    "Find {objects} in the image.",
    "Return bounding boxes for {objects} as JSON.",
    "Where are the {objects}?",
    "detect {objects}",
)
DETECT_ALL = (
    "Detect all objects in the image.",
    "Detect all objects.",
    "What are the bounding boxes for all objects in the image?",
    "What are the bounding boxes for the objects in the image?",
    "Detect every object in the image.",
    "Detect objects",
    "Detect all the objects.",
    "Find all objects in the image.",
    "Find everything in the image.",
    "List all objects with bounding boxes.",
    "Return bounding boxes for all objects as JSON.",
    "Detect the objects in the image.",
    "Detect all shapes in the image.",
    "detect all objects",
)
POINT = (
    "Point to the {object}.",
    "Point to the {object} in the image.",
    "Point at the {object}.",
    "Point to {object}",
    "Point out the {object}.",
)
CAPTION = (
    "Describe the image.",
    "Caption this image.",
    "Describe this image.",
    "Describe the picture.",
    "Caption the image.",
    "What is in the image?",
    "What do you see in the image?",
    "What is this?",
)
READ = (
    "Read the text in the image.",
    "What does the image say?",
    "Read the text.",
    "Read the word in the image.",
    "What is written in the image?",
    "What text is in the image?",
    "What word is written in the image?",
)
NO_TEXT = "There is no text."
DETECT_PICTURE = (
    "What's the bounding box for the {object} in the {which} picture?",
    "What's the bounding box for the {object} in the {which} image?",
    "Detect the {object} in the {which} picture.",
    "Where is the {object} in the {which} picture?",
)
COUNT = (
    "How many {objects} are there?",
    "How many {objects} are there in the image?",
    "How many {objects} do you see?",
    "Count the {objects}.",
    "Count the {objects} in the image.",
)
AREA = (
    "How large is the {object}?",
    "What is the area of the {object}?",
    "What is the size of the {object}?",
    "How big is the {object}?",
)
ZOOM = (
    "Zoom in on the {object}.",
    "Look closely at the {object}.",
    "Zoom in on the {object}. What do you see?",
    "Look at the {object}. What do you see?",
)
MOVED = (
    "Which shape moved?",
    "What moved?",
    "Which shape moved where?",
    "What moved in the video?",
    "What happens in the video?",
    "Describe the video.",
)
HEAR = ("Transcribe the audio.", "Transcribe the speech.", "Write down what is said.", "What was said?")
