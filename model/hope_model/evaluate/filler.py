"""Neutral small talk that holds no fact about the user: what a session reads between telling and asking."""

from hope_model.evaluate.facts import Exchange

FILLER: tuple[Exchange, ...] = (
    (
        "It has been raining here since the early hours, and the street outside looks like a small river.",
        "That sounds like a good day to stay indoors. Is the rain likely to stop soon?",
    ),
    (
        "The forecast says it will clear up later, but I never quite believe what the forecast says.",
        "Forecasts for the same day are often right, but a look out of the window never hurts.",
    ),
    (
        "I spent most of yesterday tidying the shelves, and so much paper had gathered over the year.",
        "It is. Many people keep one box for paper and empty it every few weeks.",
    ),
    (
        "Do you think it is better to plan a whole week in advance or to decide each day as it comes?",
        "A rough plan with some free room works for many people. It leaves space for surprises.",
    ),
    (
        "The neighbours are building a new fence and the hammering started before the sun was up.",
        "That must be tiring. Perhaps they would agree on a later hour if you asked them kindly.",
    ),
    (
        "I was reading an article about how bridges are tested before anyone is allowed to cross them.",
        "Engineers load them with heavy weights and measure how far they bend. It is a careful process.",
    ),
    (
        "There was a long queue at the post office today, and the machine that prints the labels was broken.",
        "Queues feel longer when nobody explains the delay. I hope you got your parcel in the end.",
    ),
    (
        "Somebody left an umbrella on the bus, so I handed it to the driver before I got off.",
        "That was thoughtful. Lost umbrellas are among the things that bus companies find most often.",
    ),
    (
        "The clock in the hall has started to run slow again, about ten minutes each day.",
        "A slow clock often needs cleaning or a new battery. It may also help to hang it quite straight.",
    ),
    (
        "Can you explain in simple terms why the days get shorter towards the end of the year?",
        "The Earth is tilted, so for half of the year your side leans away from the sun and gets less light.",
    ),
    (
        "I tried to repair the kitchen tap on my own, and now it drips twice as fast as before.",
        "The washer may not sit well. Turn the water off first, then open it and look at the rubber ring.",
    ),
    (
        "The lift in our building was out of order, so everyone had to take the stairs with heavy bags.",
        "That is hard with shopping. At least the stairs are good exercise.",
    ),
    (
        "What would you say makes a meeting useful rather than a waste of everybody's time?",
        "A clear question to answer, few people, and a note at the end of what was decided.",
    ),
    (
        "The park was full this afternoon because it was the first warm day after weeks of fog.",
        "People enjoy the first warm day the most. Fresh air does everyone good.",
    ),
    (
        "I keep forgetting where I put the scissors, although they have a drawer of their own.",
        "You could tie a ribbon to them, or hang them on a hook where you always see them.",
    ),
    (
        "They have changed the timetable of the trains again, and nobody at the station knew about it.",
        "Changed timetables cause a lot of confusion. The notice board or the website may be up to date.",
    ),
    (
        "A friend lent me a very thick novel, and after a hundred pages I still cannot tell who is who.",
        "A list of the characters on a slip of paper can help. Long novels often take a while to begin.",
    ),
    (
        "How do people remember long speeches without looking at any notes at all?",
        "Many imagine a walk through a house and place one idea in each room. It works quite well.",
    ),
    (
        "The window in the bathroom does not close properly when the weather is damp.",
        "Wood swells when it is damp. A little sanding along the edge usually solves it.",
    ),
    (
        "Our street light flickers every night at the same time, which nobody can explain to us.",
        "Report it to the town with the number on the post. A loose contact is a likely reason.",
    ),
    (
        "I finally threw away the old chair from the balcony, because one of its legs was cracked.",
        "A cracked leg can be dangerous, so that was sensible. You will have more space now.",
    ),
    (
        "Is it true that you should not water the lawn in the middle of a hot day?",
        "Early hours are better, since less water evaporates and it reaches the roots.",
    ),
    (
        "The supermarket has moved all of its shelves around, and it took me ages to find the rice.",
        "Shops do that so that people see other goods. It takes a few visits to learn the new order.",
    ),
    (
        "My phone tells me to update it every single evening, and every evening I tell it to wait.",
        "Updates often fix security problems, so it is worth letting it run over night.",
    ),
    (
        "There is a small theatre around the corner that shows the same old comedy every winter.",
        "Traditions like that are charming. The actors must know every line by heart by now.",
    ),
    (
        "I heard that the library will stay open later, which suits me much better than before.",
        "Longer opening hours help people who are busy during the day. It is good news.",
    ),
    (
        "What is the best way to take a stain of ink out of a cotton shirt?",
        "Dab it with alcohol on a cloth, from the edge to the middle, and wash it soon afterwards.",
    ),
    (
        "The wind blew over two of the bins last night, and there were papers all over the road.",
        "A strap or a stone on the lid keeps bins closed. I hope it was quickly cleaned up.",
    ),
    (
        "We had a power cut for an hour, and it was oddly pleasant to sit there with candles.",
        "A quiet hour without screens can be restful. It is wise to keep a torch at hand, too.",
    ),
    (
        "The wall in the corridor needs fresh paint, but I cannot decide whether to do it alone.",
        "A corridor is a good place to start. Cover the floor well and take your time at the edges.",
    ),
    (
        "Why does bread go hard when it gets old, while biscuits turn soft instead?",
        "Bread loses moisture to the air, and dry biscuits take it up. Both move towards the same point.",
    ),
    (
        "I watched a documentary about deep caves, and people crawled through gaps as wide as a book.",
        "Cave explorers need patience and calm. They always go in groups and tell others where they are.",
    ),
    (
        "The heating makes a knocking sound whenever it starts, as if somebody were inside the pipes.",
        "It may be air in the pipes. Letting it out at the valve usually stops the knocking.",
    ),
    (
        "They want to cut down the old tree near the school because its roots lift the pavement.",
        "Perhaps the pavement can be rebuilt around it. Old trees give a lot of shade.",
    ),
    (
        "I have to write a short speech for a farewell, and I do not know how to begin.",
        "Begin with a small memory that everyone shares, then say thank you, and keep it brief.",
    ),
    (
        "The café at the corner has new chairs, which look elegant but are terribly uncomfortable.",
        "Looks and comfort do not always go together. Perhaps they will add cushions.",
    ),
    (
        "How often should one really replace the sponge in the kitchen?",
        "Every one or two weeks is a common advice, and sooner if it begins to smell.",
    ),
    (
        "Yesterday I missed the last tram by a few seconds and walked the whole way back.",
        "That is annoying, but a walk at night can be peaceful. I hope it was not too far.",
    ),
    (
        "The new roundabout confuses all the drivers, so everyone slows down, and maybe that is the idea.",
        "Roundabouts do reduce accidents, partly because everyone has to slow down and look.",
    ),
    (
        "I would like to get into the habit of writing down three good things at the end of each day.",
        "That is a nice habit. Keep the notebook beside your bed so that it is easy to remember.",
    ),
    (
        "There was a strange smell in the cellar, which turned out to be a forgotten bag of onions.",
        "Onions keep best in a dry and airy place. At least the mystery is solved.",
    ),
    (
        "Could you tell me what the word serendipity means and how one might use it?",
        "It means finding something good by chance. For example, they met by pure serendipity.",
    ),
    (
        "The printer says that it is out of paper although the tray is completely full.",
        "Take the paper out, straighten the stack and push it in firmly. The sensor may be dusty.",
    ),
    (
        "I think I will go to bed early tonight, because the last few days were rather long.",
        "A long night of rest helps a lot. Put your screen away a little earlier, too.",
    ),
    (
        "People on the radio argued for an hour about whether the town needs a second stadium.",
        "Such debates often come down to the costs. Did anyone have a convincing point?",
    ),
    (
        "My handwriting has become so bad that I could not read my own shopping list.",
        "Writing a little more slowly helps, and a thicker pen can make the letters clearer.",
    ),
    (
        "Is there a simple way to find out whether a mattress is still good?",
        "If it sags in the middle or you wake up stiff, it may be time for a new one.",
    ),
    (
        "The bell of the church has been silent for a month, because its rope is being replaced.",
        "You may notice the quiet more than you noticed the bell. It will surely be back soon.",
    ),
    (
        "I found an old ticket in the pocket of my coat, from a concert that I had completely forgotten.",
        "Small finds like that bring back an entire evening. It could be a nice bookmark.",
    ),
    (
        "What do you think about working with music on, or is silence better for thinking?",
        "It depends on the task. Words in songs disturb reading, while simple work may go faster with them.",
    ),
)
"""Fifty exchanges; with a chat's marks around them about 3,000 tokens."""
